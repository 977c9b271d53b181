package frr

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// Install is an FRR on this machine.
type Install struct {
	// Root is what the package's paths are below: "/" for an installed one,
	// a folder for one that was only unpacked.
	Root    string
	Daemons string // folder of the daemons' programs
}

// Missing says that there is no FRR here, where it was looked for, and how it
// is had. Programs exit with code 3 on it.
type Missing struct{ Why string }

func (e *Missing) Error() string {
	return "FRR cannot run here: " + e.Why + "\n  mend it: " + Fix
}

// Fix is how one comes by FRR.
const Fix = "./run.sh frr, which unpacks Debian's package into your cache folder and installs nothing; or apt-get install frr; or set VPCLAB_FRR to the folder of an unpacked package"

// IsMissing tells whether err comes of an FRR that is not there.
func IsMissing(err error) bool {
	var m *Missing
	return errors.As(err, &m)
}

// Why is err without how to mend it.
func Why(err error) string {
	var m *Missing
	if errors.As(err, &m) {
		return m.Why
	}
	return err.Error()
}

// Check says why plan cannot be built here: it has routers that run FRR, and
// there is none, or it does not do what they are to do. Nothing is tried: see
// Install.Version.
func Check(plan *topo.Plan) error {
	routers := map[string]bool{}
	for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
		if n.Routing == topo.RoutingFRR {
			routers[n.Name] = true
		}
	}
	if len(routers) == 0 {
		return nil
	}
	for _, v := range plan.VPCs {
		for _, s := range v.VSIs {
			if routers[s.PE] {
				return fmt.Errorf("VPC %s at router %s: FRR has no VPLS signalled by BGP (RFC 4761)", v.Name, s.PE)
			}
		}
	}
	for _, a := range plan.Attachments() {
		if a.Backup != nil && (routers[a.PE] || routers[a.Backup.PE]) {
			return fmt.Errorf("VPC %s at site %s: it is homed to %s and %s, and a PE that runs FRR does not say which is preferred", a.VPC, a.Site, a.PE, a.Backup.PE)
		}
	}
	if plan.AllFRR() && len(plan.Reservations) > 0 {
		return fmt.Errorf("reservation %s: where FRR gives out the labels there are none to reserve a path with", plan.Reservations[0].Name)
	}
	_, err := Find()
	return err
}

// Where the packages of the distributions put the daemons.
var daemonDirs = []string{"usr/lib/frr", "usr/libexec/frr", "usr/sbin"}

// Find looks for an FRR: $VPCLAB_FRR, then the system, then the cache folder,
// there the newest.
func Find() (*Install, error) {
	if root := os.Getenv("VPCLAB_FRR"); root != "" {
		if i := at(root); i != nil {
			return i, nil
		}
		return nil, &Missing{fmt.Sprintf("VPCLAB_FRR is %s, where none of %s has %s", root, strings.Join(daemonDirs, ", "), strings.Join(daemons, ", "))}
	}
	if i := at("/"); i != nil {
		return i, nil
	}
	cache := cacheDir()
	roots, _ := filepath.Glob(filepath.Join(cache, "*"))
	sort.Slice(roots, func(i, j int) bool { return newer(roots[i], roots[j]) })
	for _, root := range roots {
		if i := at(root); i != nil {
			return i, nil
		}
	}
	return nil, &Missing{fmt.Sprintf("its daemons are neither in /%s nor below %s", strings.Join(daemonDirs, ", /"), cache)}
}

// at is the FRR below root, or nil.
func at(root string) *Install {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil
	}
	for _, dir := range daemonDirs {
		dir = filepath.Join(root, dir)
		if !slices.ContainsFunc(daemons, func(d string) bool { return !isProgram(filepath.Join(dir, d)) }) {
			return &Install{Root: root, Daemons: dir}
		}
	}
	return nil
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0
}

// cacheDir is where run.sh unpacks the package.
func cacheDir() string {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "vpclab", "frr")
}

// newer tells whether file a was made after file b.
func newer(a, b string) bool {
	sa, ea := os.Stat(a)
	sb, eb := os.Stat(b)
	return ea == nil && (eb != nil || sa.ModTime().After(sb.ModTime()))
}

// env is what its programs need of the environment: where the libraries are
// that came with it.
func (i *Install) env() []string {
	if i.Root == "/" {
		return nil
	}
	var dirs []string
	for _, pattern := range []string{"usr/lib/*/frr", "usr/lib/frr", "usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib64/frr", "usr/lib64"} {
		found, _ := filepath.Glob(filepath.Join(i.Root, pattern))
		dirs = append(dirs, found...)
	}
	return []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}
}

// Version runs a daemon to have it say its version, which shows that its
// libraries are there.
func (i *Install) Version(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(i.Daemons, zebra), "--version")
	cmd.Env = append(os.Environ(), i.env()...)
	out, err := cmd.CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return "", &Missing{fmt.Sprintf("%s --version: %v: %s", cmd.Path, err, first)}
	}
	return strings.TrimPrefix(first, zebra+" version "), nil
}

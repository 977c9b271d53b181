package stock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// QEMU is an emulator of PCs on this machine.
type QEMU struct {
	Path    string // qemu-system-x86_64
	Version string // its own words, as in "7.2.22 (Debian 1:7.2+dfsg-7)"
	// Data is the folder share of an emulator that was unpacked into the cache
	// folder and not installed: its firmware is there. Libraries is a search path
	// for the dynamic loader then. Both are empty otherwise.
	Data, Libraries string
}

const (
	// QEMUFix is how a machine comes by QEMU.
	QEMUFix = "./run.sh qemu, or as root: apt-get install --no-install-recommends qemu-system-x86"
	// guestQEMUFix is how it comes by one for guests that move.
	guestQEMUFix = "./run.sh guest-qemu (unpacks QEMU 10 into the cache folder, without root)"
	qemuName     = "qemu-system-x86_64"
)

// FindQEMU looks for the program that carries a lab's kernel: $VPCLAB_QEMU, then
// the system, then the cache folder. The error is a *Missing where there is none.
func FindQEMU(ctx context.Context) (*QEMU, error) {
	q, err := findQEMUPath()
	if err != nil {
		return nil, err
	}
	return q, q.ask(ctx, QEMUFix)
}

// FindGuestQEMU looks for the program that VMs run in: $VPCLAB_GUEST_QEMU, then
// the newest in the cache folder guest-qemu, then the one that FindQEMU finds. It
// is another one because a distribution's may be good for a kernel that stays
// where it is, and yet spoil a guest that is moved while it writes: 7.2 does.
func FindGuestQEMU(ctx context.Context) (*QEMU, error) {
	if path := os.Getenv("VPCLAB_GUEST_QEMU"); path != "" {
		q, err := namedQEMU("VPCLAB_GUEST_QEMU", path)
		if err != nil {
			return nil, err
		}
		if root, ok := strings.CutSuffix(q.Path, "/usr/bin/"+qemuName); ok && root != "" {
			q = unpackedAt(root)
		}
		return q, q.ask(ctx, guestQEMUFix)
	}
	if q := unpackedQEMU("guest-qemu"); q != nil {
		return q, q.ask(ctx, guestQEMUFix)
	}
	q, err := FindQEMU(ctx)
	var m *Missing
	if errors.As(err, &m) {
		m.Fix = guestQEMUFix
	}
	return q, err
}

// ask has the program say its version.
func (q *QEMU) ask(ctx context.Context, fix string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.Path, "--version")
	cmd.Env = q.Env()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return &Missing{What: fmt.Sprintf("%s --version: %v", q.Path, err), Fix: fix}
	}
	first, _, _ := strings.Cut(string(out), "\n")
	q.Version = strings.TrimPrefix(first, "QEMU emulator version ")
	return nil
}

// systemQEMU is where packages put it; PATH need not lead there.
var systemQEMU = "/usr/bin/" + qemuName

func findQEMUPath() (*QEMU, error) {
	if path := os.Getenv("VPCLAB_QEMU"); path != "" {
		return namedQEMU("VPCLAB_QEMU", path)
	}
	for _, name := range []string{qemuName, systemQEMU} {
		if path, err := exec.LookPath(name); err == nil {
			path, err = filepath.Abs(path)
			return &QEMU{Path: path}, err
		}
	}
	if q := unpackedQEMU("qemu"); q != nil {
		return q, nil
	}
	return nil, &Missing{What: fmt.Sprintf("the program %s is neither in PATH nor in %s", qemuName, CacheFolder("qemu")), Fix: QEMUFix}
}

// namedQEMU takes the user's word, given in a variable of the environment.
func namedQEMU(variable, path string) (*QEMU, error) {
	if _, err := exec.LookPath(path); err != nil {
		return nil, &Missing{What: fmt.Sprintf("%s: %v", variable, err), Fix: fmt.Sprintf("set %s to a %s program, or unset it", variable, qemuName)}
	}
	path, err := filepath.Abs(path)
	return &QEMU{Path: path}, err
}

// unpackedQEMU gives the newest in a folder of the cache, or nil.
func unpackedQEMU(what string) *QEMU {
	found := Newest(what, "usr", "bin", qemuName)
	if found == "" {
		return nil
	}
	return unpackedAt(filepath.Dir(filepath.Dir(filepath.Dir(found))))
}

// unpackedAt is the program of a package unpacked into root.
func unpackedAt(root string) *QEMU {
	return &QEMU{Path: filepath.Join(root, "usr", "bin", qemuName), Data: filepath.Join(root, "usr", "share"), Libraries: libraryPath(root)}
}

// libraryPath lists the folders with shared libraries of an unpacked package.
func libraryPath(root string) string {
	seen := map[string]bool{}
	var dirs []string
	for _, top := range []string{"usr/lib", "lib"} {
		_ = filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.Contains(d.Name(), ".so.") && !seen[filepath.Dir(path)] {
				seen[filepath.Dir(path)] = true
				dirs = append(dirs, filepath.Dir(path))
			}
			return nil
		})
	}
	return strings.Join(dirs, ":")
}

// Firmware are the options by which the program finds its firmware, parts of
// which Debian has in a package of its own. Most of it are links to that.
func (q *QEMU) Firmware() []string {
	if q.Data == "" {
		return nil
	}
	return []string{"-L", filepath.Join(q.Data, "qemu"), "-L", filepath.Join(q.Data, "seabios")}
}

// programPath is where what QEMU starts would be looked for.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Env is the environment that the program runs in.
func (q *QEMU) Env() []string {
	env := []string{"HOME=/", "PATH=" + programPath}
	if q.Libraries != "" {
		env = append(env, "LD_LIBRARY_PATH="+q.Libraries)
	}
	return env
}

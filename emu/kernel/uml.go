package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/stock"
)

// umlProgram is a User Mode Linux kernel on this machine and its modules.
type umlProgram struct {
	Path    string // the kernel, an ordinary program
	Release string // as uname -r inside
	Modules string // folder with the modules of this release
	Seccomp bool   // knows seccomp=on, which makes page faults and system calls cheaper
}

const umlPackageFix = "apt-get install user-mode-linux (as root), or ./run.sh, which unpacks the package into your cache folder without root"

// findUML looks for the program: $VPCLAB_UML, then the system, then the cache.
func findUML(ctx context.Context) (*umlProgram, error) {
	path, err := findUMLPath()
	if err != nil {
		return nil, err
	}
	u := &umlProgram{Path: path}
	if u.Release, err = umlSays(ctx, path, "--version"); err != nil {
		return nil, &Unusable{Substrate: UML, Missing: err.Error(), Fix: umlPackageFix}
	}
	help, err := umlSays(ctx, path, "--help")
	if err != nil {
		return nil, &Unusable{Substrate: UML, Missing: err.Error(), Fix: umlPackageFix}
	}
	u.Seccomp = strings.Contains(help, "seccomp=<on")
	if u.Modules, err = u.findModules(); err != nil {
		return nil, err
	}
	return u, nil
}

// systemUML is where the package puts it; PATH need not lead there.
var systemUML = "/usr/bin/linux.uml"

func findUMLPath() (string, error) {
	if path := os.Getenv("VPCLAB_UML"); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", &Unusable{Substrate: UML, Missing: fmt.Sprintf("VPCLAB_UML: %v", err), Fix: "set VPCLAB_UML to a User Mode Linux program, or unset it"}
		}
		return filepath.Abs(path)
	}
	for _, name := range []string{"linux.uml", systemUML} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	if found := stock.Newest("uml", "usr", "bin", "linux.uml"); found != "" {
		return found, nil
	}
	return "", &Unusable{Substrate: UML, Missing: "the program linux.uml is neither in PATH nor in " + stock.CacheFolder("uml"), Fix: umlPackageFix}
}

// umlSays runs the program with one flag that makes it print and exit.
func umlSays(ctx context.Context, path, flag string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, flag).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("%s %s: %w", path, flag, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// findModules finds the module folder: $VPCLAB_UML_MODULES, or beside the
// program as in Debian's package (usr/bin and usr/lib/uml/modules/<release>).
func (u *umlProgram) findModules() (string, error) {
	var tried []string
	if dir := os.Getenv("VPCLAB_UML_MODULES"); dir != "" {
		tried = []string{dir, filepath.Join(dir, u.Release)}
	} else {
		usr := filepath.Dir(filepath.Dir(u.Path))
		tried = []string{
			filepath.Join(usr, "lib", "uml", "modules", u.Release),
			filepath.Join("/usr/lib/uml/modules", u.Release),
			filepath.Join("/lib/modules", u.Release),
		}
	}
	for _, dir := range tried {
		if st, err := os.Stat(filepath.Join(dir, "kernel")); err == nil && st.IsDir() {
			return dir, nil
		}
	}
	return "", &Unusable{
		Substrate: UML,
		Missing:   fmt.Sprintf("modules of %s (release %s): looked in %s", u.Path, u.Release, strings.Join(tried, ", ")),
		Fix:       "set VPCLAB_UML_MODULES to the folder that holds its kernel/ folder, or: " + umlPackageFix,
	}
}

// plan lists the module files to load inside. Missing needed modules are an
// *Unusable; missing wanted ones are returned by name.
func (u *umlProgram) plan() (files []stock.Module, without []string, err error) {
	tree, err := stock.ReadModules(u.Modules)
	if err != nil {
		return nil, nil, &Unusable{Substrate: UML, Missing: err.Error(), Fix: umlPackageFix}
	}
	_, missing, err := orderModules(tree, needModules)
	if err != nil {
		return nil, nil, err
	}
	if len(missing) > 0 { // the folder need not say what is built in: the program does
		u.addBuiltin(tree)
		if _, missing, err = orderModules(tree, needModules); err != nil {
			return nil, nil, err
		}
	}
	if len(missing) > 0 {
		return nil, nil, &Unusable{
			Substrate: UML,
			Missing:   fmt.Sprintf("%s lacks the kernel module %s", u.Modules, strings.Join(missing, ", ")),
			Fix:       "unpack the module folder that belongs to " + u.Path + ", or: " + umlPackageFix,
		}
	}
	return orderModules(tree, append(append([]string(nil), needModules...), wantModules...))
}

// needConfig names the build option behind each needed module.
var needConfig = map[string]string{
	"ipv6": "CONFIG_IPV6", "mpls_router": "CONFIG_MPLS_ROUTING", "mpls_iptunnel": "CONFIG_MPLS_IPTUNNEL",
	"mpls_gso": "CONFIG_NET_MPLS_GSO", "veth": "CONFIG_VETH", "bridge": "CONFIG_BRIDGE", "vrf": "CONFIG_NET_VRF",
	"sch_netem": "CONFIG_NET_SCH_NETEM", "sch_hfsc": "CONFIG_NET_SCH_HFSC", "sch_htb": "CONFIG_NET_SCH_HTB",
}

// addBuiltin asks the program how it was built.
func (u *umlProgram) addBuiltin(tree *stock.Modules) {
	config, err := umlSays(context.Background(), u.Path, "--showconfig")
	if err != nil {
		return
	}
	for name, option := range needConfig {
		if strings.Contains(config, "\n"+option+"=y\n") {
			tree.SetBuiltin(name)
		}
	}
}

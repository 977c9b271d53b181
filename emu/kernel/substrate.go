package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Substrate names a kind of kernel that can carry a lab.
type Substrate string

const (
	Auto Substrate = "auto" // Host if it can, else UML, else QEMU
	Host Substrate = "host" // this machine's kernel; needs root and the modules
	UML  Substrate = "uml"  // User Mode Linux: an ordinary process, no root needed
	QEMU Substrate = "qemu" // a stock kernel in QEMU: no root needed
)

// Substrates are the words a user may say.
var Substrates = []Substrate{Auto, Host, UML, QEMU}

// ParseSubstrate reads a word given by the user; the empty word is Auto.
func ParseSubstrate(word string) (Substrate, error) {
	if word == "" {
		return Auto, nil
	}
	names := make([]string, 0, len(Substrates))
	for _, s := range Substrates {
		if word == string(s) {
			return s, nil
		}
		names = append(names, string(s))
	}
	return "", fmt.Errorf("kernel %q is not known: want one of %s", word, strings.Join(names, ", "))
}

// Unusable says that a lab cannot run on this machine as asked, what is
// missing, and how it is mended. Programs exit with code 3 on it.
type Unusable struct {
	Substrate Substrate
	Missing   string // what is not there, in words
	Fix       string // a command or an act that mends it; may be empty
}

func (e *Unusable) Error() string {
	s := fmt.Sprintf("kernel %s cannot carry a lab here: %s", e.Substrate, e.Missing)
	if e.Fix != "" {
		s += "\n  mend it: " + e.Fix
	}
	return s
}

// IsUnusable tells whether err comes of an environment that cannot run a lab.
func IsUnusable(err error) bool {
	var u *Unusable
	return errors.As(err, &u)
}

// Choose settles want to a substrate that can work here. The host's kernel is
// tried for real; User Mode Linux and QEMU are looked for, and prove themselves
// when they boot. The error is an *Unusable where none will do.
func Choose(ctx context.Context, want Substrate) (Substrate, error) {
	tries := []struct {
		substrate Substrate
		usable    func(context.Context) error
	}{{Host, hostUsable}, {UML, umlUsable}, {QEMU, qemuUsable}}
	if want != Auto && want != "" {
		for _, t := range tries {
			if t.substrate == want {
				return want, t.usable(ctx)
			}
		}
		_, err := ParseSubstrate(string(want))
		return "", err
	}
	none := &Unusable{Substrate: Auto}
	var missing []string
	for _, t := range tries {
		err := t.usable(ctx)
		if err == nil {
			return t.substrate, nil
		}
		var u *Unusable
		if !errors.As(err, &u) {
			return "", err
		}
		missing = append(missing, string(t.substrate)+": "+u.Missing)
		if t.substrate != QEMU { // User Mode Linux is the least to ask for
			none.Fix = u.Fix
		}
	}
	none.Missing = strings.Join(missing, "; ")
	return "", none
}

// hostUsable proves that this kernel can carry a lab, loading modules if that
// is what it takes.
func hostUsable(ctx context.Context) error {
	missing := missingFeatures(probeFeatures())
	if len(missing) > 0 && os.Geteuid() == 0 && loadHostModules(ctx, missing) {
		missing = missingFeatures(probeFeatures())
	}
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, len(missing))
	for i, f := range missing {
		names[i] = f.Name + " (" + f.Detail + ")"
	}
	return &Unusable{
		Substrate: Host,
		Missing:   fmt.Sprintf("kernel %s lacks %s", hostRelease(), strings.Join(names, ", ")),
		Fix:       hostFix(missing),
	}
}

// loadHostModules asks modprobe for what is missing; false if it cannot help.
func loadHostModules(ctx context.Context, missing []feature) bool {
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		return false
	}
	loaded := false
	for _, f := range missing {
		for _, name := range f.Modules {
			loaded = exec.CommandContext(ctx, modprobe, "-q", name).Run() == nil || loaded
		}
	}
	return loaded
}

// hostFix is the command that mends the host's kernel, or what else to do.
func hostFix(missing []feature) string {
	var modules []string
	for _, f := range missing {
		modules = append(modules, f.Modules...)
	}
	if os.Geteuid() != 0 {
		return "run as root, or use --kernel uml"
	}
	if len(modules) == 0 {
		return "use --kernel uml"
	}
	return "modprobe -a " + strings.Join(modules, " ") + " (if this kernel has them; else use --kernel uml)"
}

// umlUsable looks for User Mode Linux and its modules.
func umlUsable(ctx context.Context) error {
	if runtime.GOARCH != "amd64" && os.Getenv("VPCLAB_UML") == "" {
		return &Unusable{Substrate: UML, Missing: "User Mode Linux exists for amd64 only, this is " + runtime.GOARCH, Fix: "use --kernel host on a kernel with MPLS"}
	}
	u, err := findUML(ctx)
	if err != nil {
		return err
	}
	_, _, err = u.plan()
	return err
}

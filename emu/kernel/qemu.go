package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"
)

// qemuProgram is the emulator on this machine.
type qemuProgram struct {
	Path    string // qemu-system-x86_64
	Version string // its own words, as in "7.2.22 (Debian 1:7.2+dfsg-7)"
	// Data is the folder of its firmware, and Libraries a search path for the
	// dynamic loader, where the program was unpacked into the cache folder and
	// not installed. Both are empty otherwise.
	Data, Libraries string
}

// kernelImage is a stock kernel as distributions pack it, and its modules.
type kernelImage struct {
	Path    string // boot/vmlinuz-<release>
	Release string // as uname -r inside
	Modules string // folder with the modules of this release
}

const (
	qemuPackageFix = "./run.sh qemu, or as root: apt-get install --no-install-recommends qemu-system-x86"
	imageFix       = "./run.sh kernel-image (unpacks Debian's stock kernel into the cache folder, without root)"
	qemuName       = "qemu-system-x86_64"
)

// cacheFolder is where run.sh unpacks what cannot be installed; it is empty
// for who has neither a home nor $XDG_CACHE_HOME.
func cacheFolder(name string) string {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "vpclab", name)
}

// findQEMU looks for the program: $VPCLAB_QEMU, then the system, then the cache.
func findQEMU(ctx context.Context) (*qemuProgram, error) {
	q, err := findQEMUPath()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.Path, "--version")
	cmd.Env = q.env()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("%s --version: %v", q.Path, err), Fix: qemuPackageFix}
	}
	first, _, _ := strings.Cut(string(out), "\n")
	q.Version = strings.TrimPrefix(first, "QEMU emulator version ")
	return q, nil
}

// systemQEMU is where packages put it; PATH need not lead there.
var systemQEMU = "/usr/bin/" + qemuName

func findQEMUPath() (*qemuProgram, error) {
	if path := os.Getenv("VPCLAB_QEMU"); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return nil, &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("VPCLAB_QEMU: %v", err), Fix: "set VPCLAB_QEMU to a qemu-system-x86_64 program, or unset it"}
		}
		path, err := filepath.Abs(path)
		return &qemuProgram{Path: path}, err
	}
	for _, name := range []string{qemuName, systemQEMU} {
		if path, err := exec.LookPath(name); err == nil {
			path, err = filepath.Abs(path)
			return &qemuProgram{Path: path}, err
		}
	}
	found := newestIn("qemu", "usr", "bin", qemuName)
	if found == "" {
		return nil, &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("the program %s is neither in PATH nor in %s", qemuName, cacheFolder("qemu")), Fix: qemuPackageFix}
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(found)))
	return &qemuProgram{Path: found, Data: filepath.Join(root, "usr", "share", "qemu"), Libraries: libraryPath(root)}, nil
}

// newestIn finds the newest file $cache/<what>/*/<elements…>.
func newestIn(what string, elements ...string) string {
	cache := cacheFolder(what)
	if cache == "" {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(append([]string{cache, "*"}, elements...)...))
	if len(found) == 0 {
		return ""
	}
	sort.Slice(found, func(i, j int) bool { return newer(found[i], found[j]) })
	return found[0]
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

// env is the environment that the program runs in.
func (q *qemuProgram) env() []string {
	env := []string{"HOME=/", "PATH=" + standardPath}
	if q.Libraries != "" {
		env = append(env, "LD_LIBRARY_PATH="+q.Libraries)
	}
	return env
}

// findImage looks for a kernel to boot: $VPCLAB_QEMU_KERNEL and
// $VPCLAB_QEMU_MODULES, then what run.sh unpacked, then this machine's own.
func findImage() (*kernelImage, error) {
	if path := os.Getenv("VPCLAB_QEMU_KERNEL"); path != "" {
		return namedImage(path)
	}
	if path := newestIn("kernel", "boot", "vmlinuz-*"); path != "" {
		return imageAt(path)
	}
	installed, _ := filepath.Glob("/boot/vmlinuz-*")
	sort.Slice(installed, func(i, j int) bool { return newer(installed[i], installed[j]) })
	for _, path := range installed {
		if image, err := imageAt(path); err == nil {
			return image, nil
		}
	}
	return nil, &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("no kernel image, neither in %s nor, readable and with its modules, in /boot", cacheFolder("kernel")), Fix: imageFix}
}

// namedImage takes the user's word for what to boot.
func namedImage(path string) (*kernelImage, error) {
	fix := "set VPCLAB_QEMU_KERNEL to a file vmlinuz-<release> and VPCLAB_QEMU_MODULES to the folder that holds its kernel/ folder, or unset both"
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path) // /vmlinuz names no release, what it leads to does
	}
	if err != nil {
		return nil, &Unusable{Substrate: QEMU, Missing: "VPCLAB_QEMU_KERNEL: " + err.Error(), Fix: fix}
	}
	image, err := imageAt(path)
	var u *Unusable
	if errors.As(err, &u) {
		u.Fix = fix
	}
	return image, err
}

// imageAt takes the release from the image's name and looks for its modules:
// $VPCLAB_QEMU_MODULES, beside it as in Debian's package (boot and
// lib/modules/<release>), the system's.
func imageAt(path string) (*kernelImage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Unusable{Substrate: QEMU, Missing: err.Error(), Fix: imageFix}
	}
	f.Close()
	_, release, ok := strings.Cut(filepath.Base(path), "-")
	dir := os.Getenv("VPCLAB_QEMU_MODULES")
	if !ok && dir != "" { // a file named otherwise: its modules' folder is named so
		release = filepath.Base(dir)
	}
	root := filepath.Dir(filepath.Dir(path))
	tried := []string{filepath.Join(root, "lib", "modules", release), filepath.Join(root, "usr", "lib", "modules", release), filepath.Join("/lib/modules", release)}
	if dir != "" {
		tried = []string{dir, filepath.Join(dir, release)}
	}
	for _, dir := range tried {
		if st, err := os.Stat(filepath.Join(dir, "kernel")); err == nil && st.IsDir() {
			return &kernelImage{Path: path, Release: release, Modules: dir}, nil
		}
	}
	return nil, &Unusable{
		Substrate: QEMU,
		Missing:   fmt.Sprintf("modules of %s (release %s): looked in %s", path, release, strings.Join(tried, ", ")),
		Fix:       imageFix,
	}
}

// qemuModules are what a machine in QEMU needs beside a lab's own: its bus, its
// control channel and the host's files. crc32c is what libcrc32c asks for by
// a name that no module has, with nobody there who would resolve it.
var qemuModules = []string{"crc32c_generic", "virtio_pci", "virtio_console", "9pnet_virtio", "9p"}

// stockModules are parts of others' work that are modules of their own in a
// kernel where everything is one: nf_tables leaves it to one of them to read what
// a rule of a bridge asks about a frame.
var stockModules = []string{"nft_meta_bridge"}

// plan lists the module files to load for a lab, those named first before
// them. Missing needed modules are an *Unusable; missing wanted ones are
// returned by name.
func (k *kernelImage) plan(first ...string) (files []moduleFile, without []string, err error) {
	tree, err := readModules(k.Modules)
	if err != nil {
		return nil, nil, &Unusable{Substrate: QEMU, Missing: err.Error(), Fix: imageFix}
	}
	need := append(append([]string(nil), first...), needModules...)
	_, missing, err := tree.order(need)
	if err != nil {
		return nil, nil, &Unusable{Substrate: QEMU, Missing: err.Error(), Fix: imageFix}
	}
	if len(missing) > 0 {
		return nil, nil, k.lacks(missing)
	}
	return tree.order(slices.Concat(need, wantModules, stockModules))
}

// lacks says which modules are not there, or cannot be read as they are.
func (k *kernelImage) lacks(missing []string) error {
	e := &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("%s lacks the kernel module %s", k.Modules, strings.Join(missing, ", ")), Fix: imageFix}
	name := strings.ReplaceAll(missing[0], "_", `[_\-]`) + ".ko.*"
	_ = filepath.WalkDir(k.Modules, func(path string, d fs.DirEntry, err error) error {
		if ok, _ := filepath.Match(name, d.Name()); err == nil && ok {
			e.Missing = fmt.Sprintf("the modules of %s are compressed, as in %s, and only plain .ko files can be loaded", k.Path, path)
			e.Fix = "unpack them into another folder (xz -d, zstd -d) and set VPCLAB_QEMU_MODULES to it; Debian 12's kernel has plain ones: " + imageFix
			return fs.SkipAll
		}
		return nil
	})
	return e
}

// qemuUsable looks for QEMU, a kernel image and its modules.
func qemuUsable(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		return &Unusable{Substrate: QEMU, Missing: "vpclab runs inside as process 1, and this one is for " + runtime.GOARCH + ", not amd64", Fix: "use --kernel host on a kernel with MPLS"}
	}
	if _, err := findQEMU(ctx); err != nil {
		return err
	}
	image, err := findImage()
	if err != nil {
		return err
	}
	_, _, err = image.plan(qemuModules...)
	return err
}

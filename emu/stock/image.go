package stock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// Image is a stock kernel as distributions pack it, and its modules.
type Image struct {
	Path    string // boot/vmlinuz-<release>
	Release string // as uname -r inside
	Modules string // folder with the modules of this release
}

// ImageFix is how a machine comes by a kernel image.
const ImageFix = "./run.sh kernel-image (unpacks Debian's stock kernel into the cache folder, without root)"

// FindImage looks for a kernel to boot: $VPCLAB_QEMU_KERNEL and
// $VPCLAB_QEMU_MODULES, then what run.sh unpacked, then this machine's own.
func FindImage() (*Image, error) {
	if path := os.Getenv("VPCLAB_QEMU_KERNEL"); path != "" {
		return namedImage(path)
	}
	if path := Newest("kernel", "boot", "vmlinuz-*"); path != "" {
		return imageAt(path)
	}
	installed, _ := filepath.Glob("/boot/vmlinuz-*")
	sort.Slice(installed, func(i, j int) bool { return newer(installed[i], installed[j]) })
	for _, path := range installed {
		if image, err := imageAt(path); err == nil {
			return image, nil
		}
	}
	return nil, &Missing{What: fmt.Sprintf("no kernel image, neither in %s nor, readable and with its modules, in /boot", CacheFolder("kernel")), Fix: ImageFix}
}

// namedImage takes the user's word for what to boot.
func namedImage(path string) (*Image, error) {
	fix := "set VPCLAB_QEMU_KERNEL to a file vmlinuz-<release> and VPCLAB_QEMU_MODULES to the folder that holds its kernel/ folder, or unset both"
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path) // /vmlinuz names no release, what it leads to does
	}
	if err != nil {
		return nil, &Missing{What: "VPCLAB_QEMU_KERNEL: " + err.Error(), Fix: fix}
	}
	image, err := imageAt(path)
	var u *Missing
	if errors.As(err, &u) {
		u.Fix = fix
	}
	return image, err
}

// imageAt takes the release from the image's name and looks for its modules:
// $VPCLAB_QEMU_MODULES, beside it as in Debian's package (boot and
// lib/modules/<release>), the system's.
func imageAt(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Missing{What: err.Error(), Fix: ImageFix}
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
			return &Image{Path: path, Release: release, Modules: dir}, nil
		}
	}
	return nil, &Missing{
		What: fmt.Sprintf("modules of %s (release %s): looked in %s", path, release, strings.Join(tried, ", ")),
		Fix:  ImageFix,
	}
}

// Plan lists the module files to load, each after those it depends on, and those
// of need before those of want. Missing needed modules are a *Missing; missing
// wanted ones are returned by name.
func (k *Image) Plan(need, want []string) (files []Module, without []string, err error) {
	tree, err := ReadModules(k.Modules)
	if err != nil {
		return nil, nil, &Missing{What: err.Error(), Fix: ImageFix}
	}
	_, missing, err := tree.Order(need)
	if err != nil {
		return nil, nil, &Missing{What: err.Error(), Fix: ImageFix}
	}
	if len(missing) > 0 {
		return nil, nil, k.lacks(missing)
	}
	return tree.Order(slices.Concat(need, want))
}

// lacks says which modules are not there, or cannot be read as they are.
func (k *Image) lacks(missing []string) error {
	e := &Missing{What: fmt.Sprintf("%s lacks the kernel module %s", k.Modules, strings.Join(missing, ", ")), Fix: ImageFix}
	name := strings.ReplaceAll(missing[0], "_", `[_\-]`) + ".ko.*"
	_ = filepath.WalkDir(k.Modules, func(path string, d fs.DirEntry, err error) error {
		if ok, _ := filepath.Match(name, d.Name()); err == nil && ok {
			e.What = fmt.Sprintf("the modules of %s are compressed, as in %s, and only plain .ko files can be loaded", k.Path, path)
			e.Fix = "unpack them into another folder (xz -d, zstd -d) and set VPCLAB_QEMU_MODULES to it; Debian 12's kernel has plain ones: " + ImageFix
			return fs.SkipAll
		}
		return nil
	})
	return e
}

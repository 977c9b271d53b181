package stock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree makes files below a new folder, each with one line in it.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho 'QEMU emulator version 7.2.1 (Odd)'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFindQEMU(t *testing.T) {
	const inCache = "vpclab/qemu/7.2/usr/bin/" + qemuName
	root := tree(t, inCache, "vpclab/qemu/7.2/usr/lib/x86_64-linux-gnu/libodd.so.1", "named", "mute/"+qemuName)
	t.Setenv("XDG_CACHE_HOME", root)
	t.Setenv("VPCLAB_QEMU", filepath.Join(root, "named"))
	q, err := FindQEMU(t.Context())
	if err != nil || q.Path != filepath.Join(root, "named") || q.Version != "7.2.1 (Odd)" || q.Libraries != "" {
		t.Errorf("the one that VPCLAB_QEMU names: %+v, %v", q, err)
	}
	t.Setenv("VPCLAB_QEMU", filepath.Join(root, "nowhere"))
	if _, err = FindQEMU(t.Context()); !IsMissing(err) || !strings.Contains(err.Error(), "VPCLAB_QEMU") {
		t.Errorf("a name that leads nowhere: %v", err)
	}
	t.Setenv("VPCLAB_QEMU", "")
	t.Setenv("PATH", root)
	defer func(path string) { systemQEMU = path }(systemQEMU)
	systemQEMU = "/nowhere/" + qemuName
	q, err = FindQEMU(t.Context())
	if err != nil || q.Path != filepath.Join(root, inCache) || !strings.HasSuffix(q.Libraries, "x86_64-linux-gnu") || q.Data == "" {
		t.Errorf("the one in the cache: %+v, %v", q, err)
	}
}

// The QEMU for guests is another one where there is another, and that of the
// kernels where there is none.
func TestFindGuestQEMU(t *testing.T) {
	const old, recent = "vpclab/guest-qemu/9.2/", "vpclab/guest-qemu/10.0/"
	root := tree(t, "named", "for-kernels", old+"usr/bin/"+qemuName, recent+"usr/bin/"+qemuName, recent+"usr/lib/x86_64-linux-gnu/libodd.so.1")
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(root, old, "usr/bin", qemuName), past, past); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VPCLAB_QEMU", filepath.Join(root, "for-kernels"))
	for name, c := range map[string]struct{ named, cache, want, libraries string }{
		"the newest in the cache":        {"", root, recent + "usr/bin/" + qemuName, recent + "usr/lib/x86_64-linux-gnu"},
		"named, and by itself":           {"named", root, "named", ""},
		"named, of an unpacked package":  {recent + "usr/bin/" + qemuName, t.TempDir(), recent + "usr/bin/" + qemuName, recent + "usr/lib/x86_64-linux-gnu"},
		"there is only one that is good": {"", t.TempDir(), "for-kernels", ""},
	} {
		t.Setenv("XDG_CACHE_HOME", c.cache)
		t.Setenv("VPCLAB_GUEST_QEMU", "")
		if c.named != "" {
			t.Setenv("VPCLAB_GUEST_QEMU", filepath.Join(root, c.named))
		}
		libraries := ""
		if c.libraries != "" {
			libraries = filepath.Join(root, c.libraries)
		}
		q, err := FindGuestQEMU(t.Context())
		if err != nil || q.Path != filepath.Join(root, c.want) || q.Libraries != libraries || (len(q.Firmware()) > 0) != (libraries != "") {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
	t.Setenv("VPCLAB_GUEST_QEMU", filepath.Join(root, "nowhere"))
	if _, err := FindGuestQEMU(t.Context()); !IsMissing(err) || !strings.Contains(err.Error(), "VPCLAB_GUEST_QEMU") {
		t.Errorf("a name that leads nowhere: %v", err)
	}
}

func TestFindImage(t *testing.T) {
	const modules = "lib/modules/6.1.0-9-odd/kernel/"
	for name, c := range map[string]struct {
		files   []string
		kernel  string // VPCLAB_QEMU_KERNEL, below the folder
		modules string // VPCLAB_QEMU_MODULES, likewise
		release string
		want    string // part of the error
	}{
		"as Debian packs it":      {[]string{"boot/vmlinuz-6.1.0-9-odd", modules + "a.ko"}, "boot/vmlinuz-6.1.0-9-odd", "", "6.1.0-9-odd", ""},
		"modules elsewhere":       {[]string{"vmlinuz-7-odd", "mods/7-odd/kernel/a.ko"}, "vmlinuz-7-odd", "mods", "7-odd", ""},
		"a name without release":  {[]string{"bzImage", "mods/7-odd/kernel/a.ko"}, "bzImage", "mods/7-odd", "7-odd", ""},
		"no such file":            {nil, "boot/vmlinuz-6.1.0-9-odd", "", "", "no such file"},
		"an image without a past": {[]string{"boot/vmlinuz-6.1.0-9-odd"}, "boot/vmlinuz-6.1.0-9-odd", "", "", "modules of"},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, c.files...)
			t.Setenv("VPCLAB_QEMU_KERNEL", filepath.Join(root, c.kernel))
			t.Setenv("VPCLAB_QEMU_MODULES", "")
			if c.modules != "" {
				t.Setenv("VPCLAB_QEMU_MODULES", filepath.Join(root, c.modules))
			}
			image, err := FindImage()
			if c.want != "" {
				var u *Missing
				if !errors.As(err, &u) || !strings.Contains(u.What, c.want) || !strings.Contains(u.Fix, "VPCLAB_QEMU_KERNEL") {
					t.Errorf("got %v, want word of %q and what mends it", err, c.want)
				}
				return
			}
			if err != nil || image.Release != c.release {
				t.Errorf("got %+v, %v, want release %s", image, err, c.release)
			}
		})
	}
}

// The newest of several kernels in the cache is booted, and none where there
// is none.
func TestFindImageInCache(t *testing.T) {
	t.Setenv("VPCLAB_QEMU_KERNEL", "")
	t.Setenv("VPCLAB_QEMU_MODULES", "")
	root := tree(t, "vpclab/kernel/6.1-1/boot/vmlinuz-6.1-odd", "vpclab/kernel/6.1-1/lib/modules/6.1-odd/kernel/a.ko")
	t.Setenv("XDG_CACHE_HOME", root)
	if image, err := FindImage(); err != nil || image.Release != "6.1-odd" {
		t.Errorf("got %+v, %v", image, err)
	}
}

func TestImageLacksModules(t *testing.T) {
	dir := tree(t, "kernel/a.ko", "kernel/net/mpls-router.ko.xz")
	k := &Image{Path: "/boot/vmlinuz-odd", Release: "odd", Modules: dir}
	err := k.lacks([]string{"mpls_router"})
	if !IsMissing(err) || !strings.Contains(err.Error(), "compressed") || !strings.Contains(err.Error(), "VPCLAB_QEMU_MODULES") {
		t.Errorf("a compressed module: %v", err)
	}
	err = k.lacks([]string{"veth"})
	if !IsMissing(err) || !strings.Contains(err.Error(), "lacks the kernel module veth") {
		t.Errorf("a module that is not there: %v", err)
	}
}

package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file below dir.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestModinfoAgreesWithDepmod reads the real modules both ways.
// checkOrder looks that each file comes after those it needs.
func TestMissingModuleIsNamed(t *testing.T) {
	u, err := findUML(t.Context())
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	write(t, dir, "kernel/empty", "")
	src, err := os.ReadFile(filepath.Join(u.Modules, "modules.dep"))
	if err != nil {
		t.Skipf("depmod has not run there: %v", err)
	}
	var kept []string
	for line := range strings.Lines(string(src)) {
		if !strings.Contains(line, "mpls_router.ko:") {
			kept = append(kept, line)
		}
	}
	write(t, dir, "modules.dep", strings.Join(kept, ""))
	t.Setenv("VPCLAB_UML_MODULES", dir)
	_, err = Choose(t.Context(), UML)
	var unusable *Unusable
	if !errors.As(err, &unusable) || !strings.Contains(unusable.Missing, "mpls_router") || unusable.Fix == "" {
		t.Errorf("got %v, want an Unusable that names mpls_router and a fix", err)
	}
}

func TestUMLNotThere(t *testing.T) {
	t.Setenv("VPCLAB_UML", filepath.Join(t.TempDir(), "nothing"))
	_, err := Choose(t.Context(), UML)
	if !IsUnusable(err) || !strings.Contains(err.Error(), "VPCLAB_UML") {
		t.Errorf("got %v, want an Unusable that names VPCLAB_UML", err)
	}
}

func TestUMLFoundInCache(t *testing.T) {
	defer func(path string) { systemUML = path }(systemUML)
	systemUML = "/nowhere/linux.uml"
	cache := t.TempDir()
	write(t, cache, "vpclab/uml/1/usr/bin/linux.uml", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(cache, "vpclab/uml/1/usr/bin/linux.uml"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	t.Setenv("XDG_CACHE_HOME", cache)
	path, err := findUMLPath()
	if err != nil || !strings.HasPrefix(path, cache) {
		t.Errorf("found %q, %v", path, err)
	}
}

func TestQEMUNotThere(t *testing.T) {
	t.Setenv("VPCLAB_QEMU", filepath.Join(t.TempDir(), "none"))
	if _, err := Choose(t.Context(), QEMU); !IsUnusable(err) {
		t.Errorf("got %v, want an Unusable", err)
	}
}

func TestParseSubstrate(t *testing.T) {
	for word, want := range map[string]Substrate{"": Auto, "auto": Auto, "host": Host, "uml": UML, "qemu": QEMU} {
		if got, err := ParseSubstrate(word); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", word, got, err, want)
		}
	}
	if _, err := ParseSubstrate("xen"); err == nil || !strings.Contains(err.Error(), "uml") {
		t.Errorf("xen gave %v, want the known words", err)
	}
}

func TestMemoryNeedsRoom(t *testing.T) {
	_, err := memoryDir(1 << 60)
	if !IsUnusable(err) || !strings.Contains(err.Error(), "free") {
		t.Errorf("got %v, want an Unusable that tells what is free", err)
	}
	if dir, err := memoryDir(1 << 20); err != nil || dir == "" {
		t.Errorf("no room for 1 MiB: %q, %v", dir, err)
	}
}

func TestHiddenRoot(t *testing.T) {
	for path, want := range map[string]string{
		"/tmp/go-build1/b001/x.test": "/tmp/go-build1",
		"/tmp":                       "",
		"/tmpfiles/x":                "",
		"/run/user/1000/lab":         "/run/user",
		"/home/me/lab":               "",
		"/dev/shm/x":                 "/dev/shm/x",
	} {
		if got := hiddenRoot(path); got != want {
			t.Errorf("%s is hidden by %q, want %q", path, got, want)
		}
	}
}

// Debian's image has all that a lab asks for, in an order that can be loaded.
func TestImagePlan(t *testing.T) {
	image, err := findImage()
	if err != nil {
		t.Skip(err)
	}
	files, without, err := planImage(image, qemuModules...)
	if err != nil {
		t.Fatal(err)
	}
	if len(without) > 0 {
		t.Errorf("%s lacks %v", image.Path, without)
	}
	at := map[string]int{}
	for i, f := range files {
		at[f.Name] = i + 1
	}
	for _, pair := range [][2]string{{"virtio", "virtio_pci"}, {"9pnet", "9p"}, {"mpls_router", "mpls_iptunnel"}, {"crc32c_generic", "libcrc32c"}} {
		if at[pair[0]] == 0 || at[pair[0]] > at[pair[1]] {
			t.Errorf("%s is at place %d, %s at %d", pair[0], at[pair[0]], pair[1], at[pair[1]])
		}
	}
}

// So has Debian's User Mode Linux.
func TestUMLPlan(t *testing.T) {
	u, err := findUML(t.Context())
	if err != nil {
		t.Skip(err)
	}
	if _, without, err := u.plan(); err != nil || len(without) > 0 {
		t.Errorf("%s lacks %v: %v", u.Modules, without, err)
	}
}

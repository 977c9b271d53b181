package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

func names(files []moduleFile) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Name)
	}
	return out
}

func TestModuleOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "modules.dep", `kernel/net/c.ko: kernel/net/b-one.ko kernel/a.ko
kernel/net/b-one.ko: kernel/a.ko
kernel/a.ko:
kernel/d.ko:
`)
	write(t, dir, "modules.builtin", "kernel/fs/built-in.ko\n")
	tree, err := readModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, missing, err := tree.order([]string{"c", "b_one", "built_in", "nowhere", "d"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b_one", "c", "d"}, names(files)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"nowhere"}, missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if want := filepath.Join(dir, "kernel/net/b-one.ko"); files[1].Path != want {
		t.Errorf("path %s, want %s", files[1].Path, want)
	}
}

func TestModulesNone(t *testing.T) {
	if _, err := readModules(t.TempDir()); err == nil {
		t.Error("an empty folder gave modules")
	}
}

// TestModinfoAgreesWithDepmod reads the real modules both ways.
func TestModinfoAgreesWithDepmod(t *testing.T) {
	u, err := findUML(t.Context())
	if err != nil {
		t.Skip(err)
	}
	byFiles := &moduleTree{dir: u.Modules, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	if err := byFiles.readFiles(); err != nil {
		t.Fatal(err)
	}
	byFiles.readBuiltin()
	wanted := slices.Concat(needModules, wantModules)
	files, missing, err := byFiles.order(wanted)
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, byFiles, files)
	if len(missing) > 0 {
		t.Errorf("%s lacks %v", u.Modules, missing)
	}
	byDepmod := &moduleTree{dir: u.Modules, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	if err := byDepmod.readDep(); err != nil {
		t.Skipf("depmod has not run there: %v", err)
	}
	byDepmod.readBuiltin()
	same, _, err := byDepmod.order(wanted)
	if err != nil {
		t.Fatal(err)
	}
	got, want := names(files), names(same)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules by .modinfo against modules.dep (-dep +modinfo):\n%s", diff)
	}
}

// checkOrder looks that each file comes after those it needs.
func checkOrder(t *testing.T, tree *moduleTree, files []moduleFile) {
	t.Helper()
	seen := map[string]bool{}
	for _, f := range files {
		deps, err := tree.needs(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deps {
			if !seen[d] && !tree.builtin[d] {
				t.Errorf("%s comes before %s, which it needs", f.Name, d)
			}
		}
		seen[f.Name] = true
	}
}

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

package stock

import (
	"os"
	"path/filepath"
	"slices"
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

func names(files []Module) []string {
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
	tree, err := ReadModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, missing, err := tree.Order([]string{"c", "b_one", "built_in", "nowhere", "d"})
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
	if _, err := ReadModules(t.TempDir()); err == nil {
		t.Error("an empty folder gave modules")
	}
}

// TestModinfoAgreesWithDepmod reads the real modules both ways.
func TestModinfoAgreesWithDepmod(t *testing.T) {
	const dep = "modules.dep"
	var found []string
	for _, root := range []string{"/usr/lib/uml/modules", filepath.Join(CacheFolder("uml"), "*", "usr/lib/uml/modules"), "/lib/modules"} {
		trees, _ := filepath.Glob(filepath.Join(root, "*", dep))
		found = append(found, trees...)
	}
	if len(found) == 0 {
		t.Skip("no kernel's modules are here to which depmod has been")
	}
	dir := filepath.Dir(found[0])
	byFiles := &Modules{dir: dir, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	if err := byFiles.readFiles(); err != nil {
		t.Fatal(err)
	}
	byFiles.readBuiltin()
	wanted := []string{"mpls_router", "mpls_iptunnel", "vrf", "sch_netem", "nft_ct", "act_mirred", "tun", "tcp_diag"}
	files, missing, err := byFiles.Order(wanted)
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, byFiles, files)
	if len(missing) > 0 {
		t.Errorf("%s lacks %v", dir, missing)
	}
	byDepmod := &Modules{dir: dir, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	if err := byDepmod.readDep(); err != nil {
		t.Fatal(err)
	}
	byDepmod.readBuiltin()
	same, _, err := byDepmod.Order(wanted)
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
func checkOrder(t *testing.T, tree *Modules, files []Module) {
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

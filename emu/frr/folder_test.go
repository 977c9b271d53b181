package frr

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFoldersOfRouters(t *testing.T) {
	runDir = filepath.Join(t.TempDir(), "run")
	defer func() { runDir = "/run/vpclab-frr" }()
	root := filepath.Join(t.TempDir(), "it's here")
	if err := os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/vtysh"), []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if Tools("a", "pe1") != "" {
		t.Error("a router that is not there has programs")
	}
	dir := dirOf("a", "pe1")
	for range 2 {
		if err := furnish(&Install{Root: root}, dir); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(filepath.Join(Tools("a", "pe1"), "vtysh"), "-c", "show two words").CombinedOutput()
	if want := "--vty_socket " + dir + " --config_dir " + dir + " -c show two words"; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("vtysh was called with %q, want %q (%v)", out, want, err)
	}
	if err := furnish(&Install{Root: root}, dirOf("b", "pe1")); err != nil {
		t.Fatal(err)
	}
	gone, err := GC(func(lab string) bool { return lab == "b" })
	if err != nil || !slices.Equal(gone, []string{"a"}) || Tools("b", "pe1") == "" || Tools("a", "pe1") != "" {
		t.Errorf("GC removed %v, %v", gone, err)
	}
	if err := Clean("b"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(runDir); !os.IsNotExist(err) {
		t.Errorf("%s is left (%v)", runDir, err)
	}
	if gone, err := GC(func(string) bool { return false }); len(gone) > 0 || err != nil {
		t.Errorf("GC of nothing: %v, %v", gone, err)
	}
}

package frr

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runDir is where the routers' folders are, one in its lab's. A folder has the
// sockets of the daemons and, in bin, programs for people.
var runDir = "/run/vpclab-frr"

func dirOf(lab, node string) string { return filepath.Join(runDir, lab, node) }

// Tools is the folder of programs for people at a router that runs FRR: a
// vtysh that talks to its daemons. It is empty for any other node.
func Tools(lab, node string) string {
	dir := filepath.Join(dirOf(lab, node), "bin")
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// Clean removes the folders of a lab whose routers have ended, those that were
// killed too.
func Clean(lab string) error {
	if lab == "" {
		return nil // it was never built
	}
	if err := os.RemoveAll(filepath.Join(runDir, lab)); err != nil {
		return fmt.Errorf("remove the folders of FRR in lab %s: %w", lab, err)
	}
	_ = os.Remove(runDir) // not while another lab has one
	return nil
}

// GC removes the folders of labs that are dead, and names them.
func GC(alive func(lab string) bool) (labs []string, err error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if !alive(e.Name()) {
			err = errors.Join(err, Clean(e.Name()))
			labs = append(labs, e.Name())
		}
	}
	return labs, err
}

// furnish makes the folder of a router anew.
func furnish(in *Install, dir string) error {
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(bin, 0o755)); err != nil {
		return fmt.Errorf("make folder %s: %w", dir, err)
	}
	vtysh := filepath.Join(in.Root, "usr/bin/vtysh")
	if !isProgram(vtysh) {
		return nil
	}
	words := []string{"exec"}
	if env := in.env(); env != nil {
		words = append(words, "env")
		words = append(words, env...)
	}
	words = append(words, vtysh, "--vty_socket", dir, "--config_dir", dir)
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	script := "#!/bin/sh\n" + strings.Join(words, " ") + ` "$@"` + "\n"
	return errors.Join(
		os.WriteFile(filepath.Join(bin, "vtysh"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(dir, "vtysh.conf"), nil, 0o644))
}

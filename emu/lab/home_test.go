package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testHome(t *testing.T) *Home {
	t.Helper()
	h, err := NewHome(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestClaimIsExclusiveAndLeavesNothing(t *testing.T) {
	h := testHome(t)
	c, err := h.claim("demo")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(State{Lab: "demo", PID: 7, Verb: "keeper"}); err != nil {
		t.Fatal(err)
	}
	if !h.Alive("demo") {
		t.Error("a claimed lab is not alive")
	}
	if _, err := h.claim("demo"); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "pid 7") {
		t.Errorf("a second claim gave %v, want ErrTaken with the holder's pid", err)
	}
	if _, err := h.Client("dmeo"); !errors.Is(err, ErrNoLab) || !strings.Contains(err.Error(), "demo are") {
		t.Errorf("an unknown lab gave %v, want ErrNoLab and the labs there are", err)
	}
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(h.labs())
	if err != nil || len(left) != 1 || left[0].Name() != ".lock" {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestGCRemovesDeadFoldersOnly(t *testing.T) {
	h := testHome(t)
	living, err := h.claim("living")
	if err != nil {
		t.Fatal(err)
	}
	defer living.release() //nolint:errcheck // the folder is temporary
	dead, err := h.claim("dead")
	if err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as when its process is killed
	if err := os.MkdirAll(filepath.Join(h.labs(), gonePrefix+"1", "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	removed, err := h.clearFolders()
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 1 || removed[0] != "folder of lab dead" {
		t.Errorf("removed %v", removed)
	}
	all, err := h.List()
	if err != nil || len(all) != 1 || !all[0].Alive {
		t.Errorf("left: %+v (%v), want the living lab", all, err)
	}
	if _, err := os.Stat(filepath.Join(h.labs(), gonePrefix+"1")); err == nil {
		t.Error("a half removed folder is still there")
	}
}

func TestClaimTakesOverFromTheDead(t *testing.T) {
	h := testHome(t)
	dead, err := h.claim("demo")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.dir, "old"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close()
	c, err := h.claim("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer c.release() //nolint:errcheck // the folder is temporary
	if _, err := os.Stat(filepath.Join(c.dir, "old")); err == nil {
		t.Error("the new lab has a file of the dead one")
	}
}

package lab

import (
	"strings"
	"testing"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
	"github.com/vpclab/vpclab/topo"
)

func TestMemoryThatIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want topo.Size
		bad  bool
	}{
		"as Linux writes it":       {"MemTotal:        2031404 kB\nMemFree:          112 kB\nMemAvailable:      98304 kB\n", 96 << 20, false},
		"none at all":              {"MemTotal:        2031404 kB\n", 0, true},
		"a number that is none":    {"MemAvailable: much kB\n", 0, true},
		"less than nothing":        {"MemAvailable: -3 kB\n", 0, true},
		"a name that begins so":    {"MemAvailableNot: 5 kB\nMemAvailable: 4 kB\n", 4096, false},
		"an empty one from nobody": {"", 0, true},
	} {
		got, err := available(strings.NewReader(c.text))
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %v, %v: want %v", name, got, err, c.want)
		}
	}
}

func TestNoRoomSaysHowMuchMore(t *testing.T) {
	err := &NoRoomError{What: "to start the QEMU guest shop", Need: 300 << 20, Free: 100<<20 + 123}
	if want := "takes about 300MiB of memory, and the lab's kernel has 100MiB left: make the VMs smaller, or kernel.memory larger by 256MiB"; !strings.Contains(err.Error(), want) {
		t.Errorf("%v: want %q", err, want)
	}
	if err := roomToStart([]topo.Node{{Name: "a", Guest: &topo.Guest{Memory: 1 << 50}}, {Name: "bare"}}); err != nil {
		t.Errorf("a process guest: %v", err)
	}
	real := topo.Node{Name: "b", Guest: &topo.Guest{Kind: topo.GuestQEMU, Memory: 1 << 50}}
	if err := roomToStart([]topo.Node{real}); err == nil || !strings.Contains(err.Error(), "QEMU guest b takes") {
		t.Errorf("a QEMU guest of a PiB: %v", err)
	}
	if _, err := new(Lab).roomToMove(&real, vmm.PreCopy); err == nil || !strings.Contains(err.Error(), "to move") {
		t.Errorf("one that moves: %v", err)
	}
	plan := &topo.Plan{Nodes: []topo.Node{real}}
	if err := roomToProtect(plan, []topo.Pair{{VM: "b", Mode: topo.ModeSync}}); err == nil || !strings.Contains(err.Error(), "to protect the QEMU guest b takes") {
		t.Errorf("one that is protected: %v", err)
	}
	if err := roomToProtect(plan, nil); err != nil {
		t.Errorf("one that is protected already: %v", err)
	}
}

func TestMemoryIsByWhatIsDone(t *testing.T) {
	const memory = topo.Size(64 << 20)
	g := topo.Guest{Kind: topo.GuestQEMU, Memory: memory}
	program := g.Takes() - memory
	for how, copies := range map[string]topo.Size{migrate.Own: 2, vmm.PreCopy: 1, vmm.PostCopyPreempt: 1, wanopt.All: 3, wanopt.CRE: 3} {
		if got, want := takesToMove(g, how), copies*memory+program; got != want {
			t.Errorf("to move by %s: %v: want %v", how, got, want)
		}
	}
	for mode, copies := range map[string]topo.Size{topo.ModeCheckpoint: 4, topo.ModeAsync: 4, topo.ModePipelined: 2, topo.ModeSync: 2} {
		if got, want := takesProtected(g, mode), copies*memory+2*program; got != want {
			t.Errorf("to protect by mode %s: %v: want %v", mode, got, want)
		}
	}
}

func TestMovesAtTheSameTimeShareTheMemory(t *testing.T) {
	for name, c := range map[string]struct{ now, atRest, others, want topo.Size }{
		"nobody else moves":                  {500, 500, 0, 500},
		"another has taken nothing yet":      {500, 500, 300, 200},
		"another has taken all that it will": {200, 500, 300, 200},
		"somebody else has taken some":       {100, 500, 300, 100},
		"they take more than there was":      {50, 500, 600, 0},
	} {
		if got := leftBeside(c.now, c.atRest, c.others); got != c.want {
			t.Errorf("%s: %v: want %v", name, got, c.want)
		}
	}
	small := topo.Node{Name: "b", Guest: &topo.Guest{Kind: topo.GuestQEMU, Memory: 1 << 20}}
	l := &Lab{migrations: map[string]*migration{"process": {}}}
	if _, err := l.roomToMove(&small, migrate.Own); err != nil {
		t.Fatal(err)
	}
	l.migrations["large"] = &migration{takes: l.leftAtRest}
	if _, err := l.roomToMove(&small, migrate.Own); err == nil {
		t.Error("there is room beside one that takes all")
	}
	if err := l.roomToMoveAll([]string{"a", "b"}, 1<<50); err == nil || !strings.Contains(err.Error(), "to move a, b at the same time takes") {
		t.Errorf("several that take a PiB: %v", err)
	}
	if err := l.roomToMoveAll([]string{"a"}, 0); err != nil {
		t.Errorf("several process guests: %v", err)
	}
	delete(l.migrations, "large")
	if _, err := l.roomToMove(&small, migrate.Own); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

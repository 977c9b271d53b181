package lab

import (
	"strings"
	"testing"

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
	if err := roomToMove(&real); err == nil || !strings.Contains(err.Error(), "to move") {
		t.Errorf("one that moves: %v", err)
	}
}

package warm

import (
	"reflect"
	"runtime/debug"
	"testing"
)

// TestSegments finds this program's code and data where they are.
func TestSegments(t *testing.T) {
	for what, at := range map[string]struct {
		address uintptr
		flag    uint32
	}{
		"code": {reflect.ValueOf(segments).Pointer(), flagExec},
		"data": {reflect.ValueOf(&dear).Pointer(), flagWrite},
	} {
		found := false
		for _, s := range segments() {
			if uint64(at.address) >= s.address && uint64(at.address) < s.address+s.memory {
				found = true
				if s.flags&at.flag == 0 {
					t.Errorf("%s at %#x is in a segment with flags %#x", what, at.address, s.flags)
				}
			}
		}
		if !found {
			t.Errorf("%s at %#x is in none of the segments %+v", what, at.address, segments())
		}
	}
}

// TestHeapPutsBack finds the collector's settings as they were when the last
// user is done, and untouched where page faults are cheap.
func TestHeapPutsBack(t *testing.T) {
	settings := func() (percent int, limit int64) {
		percent = debug.SetGCPercent(100)
		debug.SetGCPercent(percent)
		return percent, debug.SetMemoryLimit(-1)
	}
	percent, limit := settings()
	defer func(was bool) { dear = was }(dear)
	for _, dear = range []bool{false, true} {
		first, second := Heap(1<<20), Heap(1<<20)
		if p, _ := settings(); (p == -1) != dear {
			t.Errorf("dear %v: collector at %d %% while Heap is used", dear, p)
		}
		first()
		first() // does no harm
		if p, _ := settings(); (p == -1) != dear {
			t.Errorf("dear %v: collector at %d %% while a second user is there", dear, p)
		}
		second()
		if p, l := settings(); p != percent || l != limit {
			t.Errorf("dear %v: collector at %d %%, limit %d; want %d %%, %d", dear, p, l, percent, limit)
		}
	}
}

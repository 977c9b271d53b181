package wanopt

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This test program is three more things: process 1 of a guest that is moved, and,
// in processes of their own, the ends of a pair.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		beGuest()
	}
	if at := os.Getenv(farEnv); at != "" {
		beFar(at)
	}
	code := m.Run()
	_ = os.Remove(initrdPath()) // it may never have been there
	os.Exit(code)
}

// load is what a guest does to its memory: web writes a few bytes of pages of
// which some are written much more often than others; compile writes whole pages,
// one after the other; hot writes a set of pages as fast as it can.
type load struct {
	pages  int // that it uses
	every  time.Duration
	writes int // pages each time; 0: no rest
	next   func(r *rand.Rand, i, pages int) int
	bytes  int // of a page that a write changes
}

var loads = map[string]load{
	"web": {8000, 10 * time.Millisecond, 20, func(r *rand.Rand, _, n int) int {
		if r.IntN(10) > 0 {
			return r.IntN(n / 10)
		}
		return r.IntN(n)
	}, 256},
	"compile": {8000, 10 * time.Millisecond, 30, func(_ *rand.Rand, i, n int) int { return i % n }, pageSize},
	"hot":     {8000, time.Millisecond, 40, func(r *rand.Rand, _, n int) int { return r.IntN(n * 3 / 4) }, 512},
}

// beGuest never returns. It says on its console what it found each time it has
// looked at all of its pages.
func beGuest() {
	for _, m := range []struct{ on, kind string }{{"/proc", "proc"}, {"/dev", "devtmpfs"}} {
		_ = os.MkdirAll(m.on, 0o755)
		_ = unix.Mount(m.kind, m.on, m.kind, 0, "")
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("guest: no command line:", err)
	}
	name := "web"
	for _, word := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(word, "load="); ok {
			name = v
		}
	}
	l := loads[name]
	memory, err := unix.Mmap(-1, 0, l.pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println("guest: no memory:", err)
		select {}
	}
	g := guestMemory{memory: memory, versions: make([]uint32, l.pages), l: l}
	for page := range l.pages {
		g.write(page, pageSize)
	}
	fmt.Println("guest: ready")
	r := rand.New(rand.NewPCG(3, 4))
	looked, bad, round := 0, 0, 0
	for i := 0; ; {
		for range max(1, l.writes) {
			g.write(l.next(r, i, l.pages), l.bytes)
			i++
		}
		for range l.pages / 25 {
			if !g.right(looked) {
				bad++
			}
			if looked++; looked == l.pages {
				looked, round = 0, round+1
				fmt.Printf("guest: round %d, %d pages written, %d bad\n", round, i, bad)
			}
		}
		time.Sleep(l.every)
	}
}

// guestMemory is pages whose content says what it has to be.
type guestMemory struct {
	memory   []byte
	versions []uint32
	l        load
}

// write makes a page's next version, of which so many bytes differ from the last.
func (g guestMemory) write(page, bytes int) {
	g.versions[page]++
	b := g.memory[page*pageSize : (page+1)*pageSize]
	v := g.versions[page]
	from := int(v) * bytes % pageSize
	if bytes == pageSize || v == 1 {
		from, bytes = 0, pageSize
	}
	for i := from; i < from+bytes && i < pageSize; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], word(page, i, v))
	}
	binary.LittleEndian.PutUint64(b, uint64(page)<<32|uint64(v))
}

// word is half of it noise: what programs have in memory can be compressed, but
// not much.
func word(page, i int, v uint32) uint64 {
	x := (uint64(page)<<20 ^ uint64(i)<<4 ^ uint64(v)) * 0x9e3779b97f4a7c15
	return x>>32&0x00ffffff | uint64(page%50)<<40
}

// right says whether a page is of its version: its first word, and all words that
// are not some version's of this very page.
func (g guestMemory) right(page int) bool {
	b := g.memory[page*pageSize : (page+1)*pageSize]
	v := g.versions[page]
	if binary.LittleEndian.Uint64(b) != uint64(page)<<32|uint64(v) {
		return false
	}
	if g.l.bytes == pageSize {
		for i := 8; i < pageSize; i += 8 {
			if binary.LittleEndian.Uint64(b[i:]) != word(page, i, v) {
				return false
			}
		}
		return true
	}
	// Each stretch is of the last version that wrote there.
	n := pageSize / g.l.bytes
	for at := range n {
		last := uint32(1)
		for k := v; k > 1 && v-k < uint32(n); k-- {
			if int(k)*g.l.bytes%pageSize == at*g.l.bytes {
				last = k
				break
			}
		}
		for i := at * g.l.bytes; i < (at+1)*g.l.bytes; i += 8 {
			if i > 0 && binary.LittleEndian.Uint64(b[i:]) != word(page, i, last) {
				return false
			}
		}
	}
	return true
}

func TestTheGuestKnowsWhatIsWrong(t *testing.T) {
	for name, l := range loads {
		t.Run(name, func(t *testing.T) {
			g := guestMemory{memory: make([]byte, 3*pageSize), versions: make([]uint32, 3), l: l}
			for page := range 3 {
				g.write(page, pageSize)
			}
			for range 40 {
				before := slices.Clone(g.memory)
				g.write(1, l.bytes)
				if !g.right(0) || !g.right(1) || !g.right(2) {
					t.Fatal("what was written is said to be wrong")
				}
				now := slices.Clone(g.memory)
				copy(g.memory, before)
				if g.right(1) {
					t.Fatal("a page that is one version behind is said to be right")
				}
				copy(g.memory, now)
			}
			g.memory[2*pageSize+777] ^= 1
			if g.right(2) {
				t.Error("a wrong byte is not noticed")
			}
		})
	}
}

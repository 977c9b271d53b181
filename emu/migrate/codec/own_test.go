package codec

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

var own = Config{Own: true, Zero: true}

func size(b []byte) string { return fmt.Sprintf("%d bytes", len(b)) }

// encodeChange sends a memory, changes it, and gives what the change takes.
func encodeChange(t *testing.T, memory []byte, change func()) []byte {
	t.Helper()
	p := newPair(t, own, memory)
	p.send(all(memory), MaxBatch)
	change()
	b := p.enc.Encode(nil, all(memory), memory)
	p.place(b, all(memory))
	p.check()
	return b
}

// What a change takes, beyond the header, is about what is new in it.
func TestOwnTakesWhatIsNew(t *testing.T) {
	const pages = 256
	r := seeded(21)
	noise := func(n int) []byte {
		b := make([]byte, n)
		fillRandom(r, b)
		return b
	}
	for name, c := range map[string]struct {
		change func(m []byte)
		most   int
	}{
		"nothing":                {func([]byte) {}, 12},
		"written with the same":  {func(m []byte) { copy(at(m, 7), bytes.Clone(at(m, 7))) }, 12},
		"one page of zeros":      {func(m []byte) { clear(at(m, 7)) }, 24},
		"all of it zeros":        {func(m []byte) { clear(m) }, 12},
		"a copy of another page": {func(m []byte) { copy(at(m, 7), at(m, 99)) }, 24},
		"a copy of a new page":   {func(m []byte) { copy(at(m, 7), noise(PageSize)); copy(at(m, 99), at(m, 7)) }, PageSize + 30},
		"one byte":               {func(m []byte) { at(m, 7)[1000]++ }, 24},
		"one byte each in ten pages": {func(m []byte) {
			for i := range 10 {
				at(m, 7+i)[1000+i]++
			}
		}, 120},
		"64 bytes moved across":        {func(m []byte) { copy(at(m, 7)[100:164], at(m, 99)[2001:]) }, 90},
		"200 bytes moved across":       {func(m []byte) { copy(at(m, 7)[100:300], at(m, 99)[2001:]) }, 40},
		"a page moved along by 5":      {func(m []byte) { copy(at(m, 7)[5:], bytes.Clone(at(m, 7))) }, 60},
		"two pages that change places": {func(m []byte) { a := bytes.Clone(at(m, 7)); copy(at(m, 7), at(m, 8)); copy(at(m, 8), a) }, PageSize + 40},
		"100 bytes of noise":           {func(m []byte) { copy(at(m, 7)[300:], noise(100)) }, 130},
	} {
		// Half of it, as the table of anchors has room for: zeros have none.
		m := append(noise(pages/2*PageSize), make([]byte, pages/2*PageSize)...)
		b := encodeChange(t, m, func() { c.change(m) })
		if n := len(b) - headerSize; n > c.most {
			t.Errorf("%s: %d bytes, expected at most %d", name, n, c.most)
		}
	}
}

// Copies, coded pages and zeros of one batch may refer to each other in all ways.
func TestReferencesInsideABatch(t *testing.T) {
	r := seeded(31)
	for range 300 {
		m := make([]byte, 12*PageSize)
		fillRecords(r, m)
		p := newPair(t, own, m)
		p.send(all(m), 12)
		for range 4 {
			before := bytes.Clone(m)
			for i := range 12 {
				page := at(m, i)
				switch j := r.IntN(12); r.IntN(6) {
				case 0:
					copy(page, at(before, j))
				case 1:
					copy(page, at(m, j))
				case 2:
					clear(page)
				case 3:
					copy(page[r.IntN(2000):], at(before, j)[r.IntN(2000):])
				case 4:
					copy(page[r.IntN(2000):], at(m, j)[r.IntN(2000):])
				}
			}
			p.send(all(m), 12)
			p.check()
		}
	}
}

// A memory that the target still holds from before is not sent again, and what it
// holds otherwise does no harm: it is said.
func TestAssume(t *testing.T) {
	r := seeded(41)
	m := mixed(r, 600)
	p := newPair(t, own, m)
	copy(p.target, m)
	changed := work(r, m, 30)
	isChanged := map[uint32]bool{}
	for _, q := range changed {
		isChanged[q] = true
	}
	for from := 0; from < 600; from += 200 {
		var same []uint32
		for q := uint32(from); q < uint32(from)+200; q++ {
			if !isChanged[q] {
				same = append(same, q)
			}
		}
		p.enc.(Shadowing).Assume(same, gather(m, same))
	}
	p.send(all(m), 200)
	p.check()
	if most := int64(len(changed)*PageSize + 2000); p.sent > most {
		t.Errorf("%d bytes for %d pages that changed, expected at most %d", p.sent, len(changed), most)
	}

	lied := newPair(t, own, m)
	lied.enc.(Shadowing).Assume(all(m)[100:101], at(m, 100))
	b := lied.enc.Encode(nil, all(m)[100:101], at(m, 100))
	if err := lied.dec.Decode(lied.target, b, func(int) {}); !errors.Is(err, ErrStep) {
		t.Errorf("a page that the target does not hold: %v; expected %v", err, ErrStep)
	}
}

// While the VM runs at the target, and writes there, only pages that are still
// missing are referred to; they are decoded aside.
func TestOnly(t *testing.T) {
	r := seeded(51)
	m := mixed(r, 640)
	p := newPair(t, own, m)
	p.send(all(m), 256)
	missing := work(r, m, 200)
	bits := make([]uint64, 10)
	for _, q := range missing {
		bits[q/64] |= 1 << (q % 64)
	}
	p.enc.(Shadowing).Only(bits)
	aside := make([]byte, len(m))
	fillRandom(r, aside)
	for _, q := range missing {
		copy(at(aside, int(q)), at(p.target, int(q)))
	}
	fillRandom(r, p.target) // the VM
	p.target = aside
	sent := p.sent
	p.send(missing, 16)
	for _, q := range missing {
		if !bytes.Equal(at(aside, int(q)), at(m, int(q))) {
			t.Errorf("page %d differs", q)
		}
	}
	t.Logf("%d missing pages in %d bytes", len(missing), p.sent-sent)
}

// The level follows what the link has room for, and comes back.
func TestPressureChoosesTheLevel(t *testing.T) {
	var r residue
	r.start()
	defer r.stop()
	for _, step := range []struct {
		pressure float64
		level    int
	}{{1, 3}, {0, 0}, {0.2, 1}, {0.5, 2}, {2, 3}, {-1, 0}} {
		for range 30 {
			r.pressure(step.pressure)
		}
		if r.level != step.level {
			t.Errorf("level %d under pressure %g, expected %d", r.level, step.pressure, step.level)
		}
	}
	for range 30 {
		r.pressure(0.75)
	}
	for range 30 { // around a threshold it stays where it is
		r.pressure(0.65)
	}
	if r.level != 3 {
		t.Errorf("level %d under pressure just below its threshold, expected 3", r.level)
	}
}

// All levels are decoded, and a harder one takes no more bytes.
func TestLevels(t *testing.T) {
	m := mixed(seeded(61), 1200)
	var last int64 = 1 << 60
	for _, pressure := range []float64{0, 0.2, 0.5, 1} {
		p := newPair(t, own, m)
		for range 30 {
			p.enc.Pressure(pressure)
		}
		p.send(all(m), 256)
		p.check()
		if p.sent > last+last/50 {
			t.Errorf("%d bytes under pressure %g, %d under less", p.sent, pressure, last)
		}
		last = p.sent
	}
}

func TestNoise(t *testing.T) {
	r := seeded(71)
	for range 50 {
		b := make([]byte, 600+r.IntN(PageSize-600))
		fillRandom(r, b)
		b = b[:len(b)&^7]
		if !incompressible(b) {
			t.Errorf("noise of %s looks compressible", size(b))
		}
		fillRecords(r, b)
		if incompressible(b) {
			t.Errorf("records of %s look like noise", size(b))
		}
	}
}

// Our own beats CloudNet's encoders in bytes, and all plain ones, on every kind
// of memory and of change.
func TestOwnIsSmallest(t *testing.T) {
	for _, content := range contents(1024) {
		others := map[string]int64{}
		for _, code := range codes {
			r := seeded(81)
			m := bytes.Clone(content.memory)
			p := newPair(t, code.c, m)
			for range 30 {
				p.enc.Pressure(1)
			}
			p.send(all(m), 256)
			first := p.sent
			for range 3 {
				p.send(work(r, m, 300), 256)
			}
			p.check()
			others[code.name], others[code.name+" later"] = first, p.sent-first
		}
		for name, n := range others {
			mine := others["vpclab"]
			if len(name) > 6 && name[len(name)-6:] == " later" {
				mine = others["vpclab later"]
			}
			// A few bytes of headers may be what two differ in.
			if mine > n+n/100+200 {
				t.Errorf("%s, %s: %d bytes, vpclab %d", content.name, name, n, mine)
			}
		}
		t.Log(content.name, others)
	}
}

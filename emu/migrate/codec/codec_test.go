package codec

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// configs are all that can be chosen, by a name for tests.
func configs() map[string]Config {
	out := map[string]Config{
		"raw":        {},
		"vpclab":     {Own: true, Zero: true},
		"zero":       {Zero: true},
		"cbr":        {CBR: true},
		"cbr-256":    {CBR: true, Block: 256, Zero: true},
		"cbr-page":   {CBR: true, Block: PageSize},
		"delta":      {Delta: true},
		"cloudnet":   {CBR: true, Delta: true},
		"cloudnet-z": {CBR: true, Delta: true, Compress: "zstd-1", Key: 5},
		"unverified": {CBR: true, Delta: true, Unverified: true},
	}
	for _, name := range Compressors {
		out[name] = Config{Zero: true, Compress: name}
	}
	return out
}

func TestBothEndsHoldTheSame(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				r := seeded(seed)
				p := newPair(t, c, mixed(r, 300+r.IntN(600)))
				p.send(all(p.source), 1+r.IntN(MaxBatch))
				p.check()
				for range 10 {
					p.send(work(r, p.source, 1+r.IntN(400)), 1+r.IntN(MaxBatch))
					p.check()
				}
			}
		})
	}
}

// A target that is not empty at first ends up the same all the same.
func TestWhatTheTargetHeldBefore(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			r := seeded(9)
			p := newPair(t, c, mixed(r, 500))
			fillRandom(r, p.target)
			p.send(all(p.source), 100)
			p.check()
		})
	}
}

func TestDamageIsSaid(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			r := seeded(3)
			m := mixed(r, 64)
			p := newPair(t, c, m)
			good := p.enc.Encode(nil, all(m), m)
			for range 200 {
				bad := append([]byte(nil), good...)
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
				if r.IntN(4) == 0 {
					bad = bad[:r.IntN(len(bad))]
				}
				if err := p.dec.Decode(p.target, bad, nil); !errors.Is(err, ErrBatch) {
					t.Fatalf("damaged batch: %v; expected %v", err, ErrBatch)
				}
			}
			p.place(good, all(m))
			p.check()
		})
	}
}

func TestOutOfStepIsSaid(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			m := mixed(seeded(3), 64)
			p := newPair(t, c, m)
			first := p.enc.Encode(nil, all(m), m)
			second := p.enc.Encode(nil, all(m), m)
			if err := p.dec.Decode(p.target, second, nil); !errors.Is(err, ErrStep) {
				t.Errorf("the second batch first: %v; expected %v", err, ErrStep)
			}
			p.place(first, all(m))
			if err := p.dec.Decode(p.target, first, nil); !errors.Is(err, ErrStep) {
				t.Errorf("the first batch twice: %v; expected %v", err, ErrStep)
			}
			other := newPair(t, Config{Zero: !c.Zero, CBR: true, Block: 512}, m)
			if err := other.dec.Decode(other.target, second, nil); !errors.Is(err, ErrStep) {
				t.Errorf("a batch of another configuration: %v; expected %v", err, ErrStep)
			}
		})
	}
}

func TestUsageAddsUp(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			r := seeded(4)
			p := newPair(t, c, mixed(r, 600))
			p.send(all(p.source), 200)
			p.send(work(r, p.source, 100), 200)
			var in, cpu int64
			for _, u := range p.enc.Usage() {
				t.Logf("%-8s %6d units, %8d -> %8d bytes, %v, %d false", u.Name, u.Units, u.In, u.Out, u.CPU, u.False)
				if u.Out > u.In && u.In > 0 && u.Name != c.Compress && u.Name != "zero" {
					t.Errorf("%s made %d bytes of %d", u.Name, u.Out, u.In)
				}
				in, cpu = in+u.In, cpu+int64(u.CPU)
			}
			if in == 0 || cpu == 0 || p.enc.Footprint() < 0 {
				t.Errorf("%d bytes and %d ns accounted for", in, cpu)
			}
		})
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	for want, c := range map[string]Config{
		"a memory of 0 pages":    {},
		"compress \"brotli\"":    {Pages: 1, Compress: "brotli"},
		"block of 100 bytes":     {Pages: 1, CBR: true, Block: 100},
		"block of 8192 bytes":    {Pages: 1, CBR: true, Block: 8192},
		"hash of 7 bits":         {Pages: 1, CBR: true, HashBits: 7},
		"only cbr verifies":      {Pages: 1, Unverified: true},
		"stands in place of cbr": {Pages: 1, Own: true, CBR: true},
	} {
		if _, err := NewEncoder(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("encoder for %+v: %v; expected an error with %q", c, err, want)
		}
		if _, err := NewDecoder(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("decoder for %+v: %v; expected an error with %q", c, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for names, want := range map[string]string{
		"":               "{1 false false 0 0 false  false false 0 0}",
		"raw":            "{1 false false 0 0 false  false false 0 0}",
		"zero cbr delta": "{1 true true 0 0 true  false false 0 0}",
		"zero zstd-1":    "{1 true false 0 0 false zstd-1 false false 0 0}",
		"vpclab":         "{1 true false 0 0 false  true false 0 0}",
		"raw zero":       "there is no encoder \"raw\"",
		"zip lz4":        "both compress what is left",
		"vpclab delta":   "stands in place of",
		"zero smart":     "there is no encoder \"smart\"",
	} {
		c, err := Parse(Config{Pages: 1}, strings.Fields(names))
		got := fmt.Sprint(c)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s; expected %s", names, got, want)
		}
	}
}

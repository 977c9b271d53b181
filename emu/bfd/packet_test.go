package bfd

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// sample is a packet as FRR's bfdd sends it.
var sample = []byte{
	0x20, 0xc8, 3, 24,
	0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7,
	0, 0, 0x27, 0x10, 0, 0, 0xc3, 0x50, 0, 0, 0, 0,
}

func TestPacketOnTheWire(t *testing.T) {
	p, err := Parse(sample)
	want := Packet{State: Up, Independent: true, Multiplier: 3, Mine: 0xdeadbeef, Yours: 7, DesiredMinTx: 10 * time.Millisecond, RequiredMinRx: 50 * time.Millisecond}
	if err != nil || p != want {
		t.Fatalf("read %+v, %v; want %+v", p, err, want)
	}
	if b := p.Append(nil); !bytes.Equal(b, sample) {
		t.Errorf("wrote\n%x, want\n%x", b, sample)
	}
}

func TestWhatIsDiscarded(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		err    error
	}{
		"cut short":                        {func(b []byte) []byte { return b[:23] }, errShort},
		"of a version that never was":      {func(b []byte) []byte { b[0] = 0x40; return b }, errVersion},
		"longer than its datagram":         {func(b []byte) []byte { b[3] = 25; return b }, errLength},
		"shorter than a header":            {func(b []byte) []byte { b[3] = 23; return b }, errLength},
		"that nobody may ever miss":        {func(b []byte) []byte { b[2] = 0; return b }, errMultiplier},
		"to many at once":                  {func(b []byte) []byte { b[1] |= 1; return b }, errMultipoint},
		"from nobody":                      {func(b []byte) []byte { copy(b[4:], []byte{0, 0, 0, 0}); return b }, errMine},
		"signed":                           {func(b []byte) []byte { b[1] |= 4; return b }, errAuth},
		"up with it knows not whom":        {func(b []byte) []byte { b[11] = 0; return b }, errYours},
		"down with it knows not whom: not": {func(b []byte) []byte { b[11], b[1] = 0, 0x40; return b }, nil},
		"with bytes behind it: not":        {func(b []byte) []byte { return append(b, 1, 2, 3) }, nil},
	} {
		if _, err := Parse(c.change(bytes.Clone(sample))); !errors.Is(err, c.err) {
			t.Errorf("a packet %s: %v, want %v", name, err, c.err)
		}
	}
}

// FuzzParse: whatever arrives is refused or read, and what was read is written
// as it was.
func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add(append(bytes.Clone(sample), 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(p.Append(nil))
		if err != nil || again != p {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

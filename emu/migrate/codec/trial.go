package codec

import (
	"bytes"
	"fmt"
	"time"
)

// Trial is what a pair of encoder and decoder makes of a memory, without any
// network: for figures that compare encoders (CloudNet, Fig. 18), and for what
// false matches of a hash do.
type Trial struct {
	In, Out        int64         // bytes of memory, bytes of batches
	Encode, Decode time.Duration // CPU
	Uses           []Use         // of the encoder
	Footprint      struct{ Encoder, Decoder int64 }
	False          int64 // matches of the hash that were none
	Wrong          int64 // pages that the target has otherwise than the source
}

// Try sends a whole memory once through a pair, in batches of so many pages,
// under such pressure of the link.
func Try(c Config, memory []byte, batch int, pressure float64) (Trial, error) {
	c.Pages = len(memory) / PageSize
	t := Trial{In: int64(c.Pages * PageSize)}
	e, err := NewEncoder(c)
	if err != nil {
		return t, err
	}
	defer e.Close()
	d, err := NewDecoder(c)
	if err != nil {
		return t, err
	}
	defer d.Close()
	target, err := newArena(c.Pages * PageSize)
	if err != nil {
		return t, fmt.Errorf("memory of the target: %w", err)
	}
	defer target.close()
	var out []byte
	pages := make([]uint32, 0, batch)
	for from := 0; from < c.Pages; from += len(pages) {
		pages = pages[:0]
		for i := from; i < min(from+batch, c.Pages); i++ {
			pages = append(pages, uint32(i))
		}
		e.Pressure(pressure)
		out = e.Encode(out[:0], pages, memory[from*PageSize:(from+len(pages))*PageSize])
		t.Out += int64(len(out))
		if err := d.Decode(target.bytes, out, func(int) {}); err != nil {
			return t, err
		}
	}
	t.Uses = e.Usage()
	for _, u := range t.Uses {
		t.Encode += u.CPU
		t.False += u.False
	}
	for _, u := range d.Usage() {
		t.Decode += u.CPU
	}
	t.Footprint.Encoder, t.Footprint.Decoder = e.Footprint(), d.Footprint()
	for i := range c.Pages {
		if !bytes.Equal(at(memory, i), at(target.bytes, i)) {
			t.Wrong++
		}
	}
	return t, nil
}

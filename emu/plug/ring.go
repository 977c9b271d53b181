package plug

import (
	"errors"
	"fmt"
)

// ErrFull says that no more epochs can be told apart until one is released.
var ErrFull = fmt.Errorf("%d epochs are held already", Epochs)

// ErrShut says that the gate was shut for good.
var ErrShut = errors.New("the gate is shut for good")

// openLane is the band of what may leave at once.
const openLane = 0

// ring is which epoch is in which band. Epochs are numbered from 1; what was sent
// before the first is epoch 0 and has left. Bands are used in turn, and the lower
// of two bands is served first: so of two epochs that are let go together the
// older one leaves first, unless bands began anew between them. Then the older
// ones must have left before the younger is let go.
type ring struct {
	shut     bool
	open     bool   // nothing is held: what is sent goes to openLane
	current  uint64 // epoch that what is sent belongs to
	released uint64 // up to this one all was let go
	left     uint64 // up to this one all is known to have left
}

// bandOf is where an epoch is held.
func bandOf(epoch uint64) uint8 { return 1 + uint8((epoch-1)%Epochs) }

// firstOfRound tells whether bands begin anew with an epoch.
func firstOfRound(epoch uint64) bool { return bandOf(epoch) == 1 }

// next is the epoch that Mark would begin. mustLeave is the one whose packets
// must have left, with all before it, because its band is used again; 0: none.
func (r *ring) next() (epoch, mustLeave uint64, err error) {
	if r.shut {
		return 0, 0, ErrShut
	}
	epoch = r.current + 1
	switch {
	case epoch <= Epochs:
		return epoch, 0, nil
	case !r.open && epoch-Epochs > r.released:
		return 0, 0, ErrFull
	case epoch-Epochs > r.left:
		return epoch, epoch - Epochs, nil
	}
	return epoch, 0, nil
}

// marked notes that the next epoch has begun.
func (r *ring) marked() {
	if r.open {
		r.released, r.left = r.current, r.current // by way of openLane
	}
	r.open = false
	r.current++
}

// part is some epochs that can be let go at once, after what is before them has
// left.
type part struct {
	from, to  uint64
	mustLeave uint64 // 0: nothing has to
}

// parts says how to let go everything up to an epoch, in order.
func (r *ring) parts(upTo uint64) (out []part, err error) {
	switch {
	case r.shut:
		return nil, ErrShut
	case upTo > r.current:
		return nil, fmt.Errorf("epoch %d has not begun: the last one is %d", upTo, r.current)
	}
	for e := r.released + 1; e <= upTo; e++ {
		p := part{from: e, to: e}
		if firstOfRound(e) && r.left < e-1 {
			p.mustLeave = e - 1
		}
		if n := len(out); n > 0 && p.mustLeave == 0 {
			out[n-1].to = e
			continue
		}
		out = append(out, p)
	}
	return out, nil
}

package codec

import "encoding/binary"

// near finds pieces of a changed page in what the target holds at the same page:
// a page that is written again is mostly made of what it was made of. Its words
// are entered where they are aligned, and looked for anywhere.
type near struct {
	at  [1 << nearLog]uint16 // offset and 1
	old []byte
}

const (
	nearLog = 10
	// shortestNear is for how many bytes it is worth to say where: about three
	// bytes.
	shortestNear = 12
)

func nearPlace(word uint64) uint64 { return word * 0x9e3779b97f4a7c15 >> (64 - nearLog) }

// enter makes a page the one that is looked in.
func (n *near) enter(old []byte) {
	n.old = old
	clear(n.at[:])
	for i := 0; i+8 <= len(old); i += 8 {
		n.at[nearPlace(binary.LittleEndian.Uint64(old[i:]))] = uint16(i) + 1
	}
}

// find looks for the bytes of now around offset i, back to from, on to to.
func (n *near) find(now []byte, i, from, to int) (where, at, length int, ok bool) {
	word := binary.LittleEndian.Uint64(now[i:])
	k := int(n.at[nearPlace(word)]) - 1
	if k < 0 || binary.LittleEndian.Uint64(n.old[k:]) != word {
		return 0, 0, 0, false
	}
	on := 8 + firstDifferenceOf(now[i+8:to], n.old[k+8:])
	back := equalBefore(now[from:i], n.old[:k])
	if back+on < shortestNear {
		return 0, 0, 0, false
	}
	return k - back, i - back, back + on, true
}

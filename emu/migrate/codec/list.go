package codec

import "encoding/binary"

// list writes the pieces of coded pages.
type list struct {
	out  []byte
	next int             // the page that the last piece was found in
	took [pieceKinds]int // bytes, by kind
}

func (l *list) reset() { *l = list{out: l.out[:0]} }

func (l *list) keep(n int) { l.piece(n, keepPiece) }

func (l *list) literal(n int) { l.piece(n, literalPiece) }

// found tells a piece at a position of the target's memory. The page is told as
// the difference to that of the last such piece, which is often none.
func (l *list) found(n, from int) {
	before := len(l.out)
	l.out = binary.AppendUvarint(l.out, uint64(n*pieceKinds+foundPiece))
	l.out = binary.AppendUvarint(l.out, zigzag(from/PageSize-l.next))
	l.out = binary.LittleEndian.AppendUint16(l.out, uint16(from%PageSize))
	l.next = from / PageSize
	l.took[foundPiece] += len(l.out) - before
}

// near tells a piece of what the target holds at the same page.
func (l *list) near(n, offset int) {
	l.piece(n, nearPiece)
	l.out = binary.LittleEndian.AppendUint16(l.out, uint16(offset))
	l.took[nearPiece] += 2
}

func (l *list) piece(n, kind int) {
	before := len(l.out)
	l.out = binary.AppendUvarint(l.out, uint64(n*pieceKinds+kind))
	l.took[kind] += len(l.out) - before
}

package codec

import "encoding/binary"

// list writes the pieces of coded pages.
type list struct {
	out  []byte
	next int // position after the last piece that was found elsewhere
}

func (l *list) reset() { l.out, l.next = l.out[:0], 0 }

func (l *list) keep(n int) { l.piece(n, keepPiece) }

func (l *list) literal(n int) { l.piece(n, literalPiece) }

// found tells a piece at a position of the target's memory. The page is told as
// the difference to that of the last piece's end, which is often none.
func (l *list) found(n, from int) {
	l.piece(n, foundPiece)
	l.out = binary.AppendUvarint(l.out, zigzag(from/PageSize-l.next/PageSize))
	l.out = binary.LittleEndian.AppendUint16(l.out, uint16(from%PageSize))
	l.next = from + n
}

func (l *list) piece(n, kind int) {
	l.out = binary.AppendUvarint(l.out, uint64(n*pieceKinds+kind))
}

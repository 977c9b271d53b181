package migrate

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	present "github.com/vpclab/vpclab/emu/warm" // warm is a type of this package
)

// FileExtents tells where a file holds data, by SEEK_DATA (lseek(2)): what the
// file system knows to be holes is not read.
func FileExtents(f *os.File, size int64) ([][2]int64, error) {
	var extents [][2]int64
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return nil, fmt.Errorf("find data of %s from %d on: %w", f.Name(), at, err)
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find a hole of %s from %d on: %w", f.Name(), data, err)
		}
		if data >= size {
			break
		}
		extents = append(extents, [2]int64{data, min(hole, size) - data})
		at = hole
	}
	return extents, nil
}

// readAtOnce is how much of an image is read by one call.
const readAtOnce = 1 << 20

// hashBlocks computes the leaves of all blocks of an image. Holes are not read.
func hashBlocks(image io.ReaderAt, extents [][2]int64, blocks int, p *proof, pause func() error) error {
	held := newBitmap(blocks)
	if err := mark(held, extents, blocks); err != nil {
		return err
	}
	for b := range p.leaves {
		if !held.has(b) {
			p.set(b, zeroLeaf)
		}
	}
	buf := blockBuffer(readAtOnce / BlockSize)
	return runs(held, readAtOnce/BlockSize, func(first, n int) error {
		if err := pause(); err != nil {
			return err
		}
		if err := readBlocks(image, buf, first, n); err != nil {
			return err
		}
		for i := range n {
			p.set(first+i, leaf(buf[i*BlockSize:(i+1)*BlockSize]))
		}
		return nil
	})
}

// blockBuffer is memory for n blocks, all of it present.
func blockBuffer(n int) []byte {
	b := make([]byte, n*BlockSize)
	_ = present.Range(b) // a kernel that cannot lets pages come one by one
	return b
}

// readBlocks reads n blocks into buf.
func readBlocks(image io.ReaderAt, buf []byte, first, n int) error {
	if _, err := image.ReadAt(buf[:n*BlockSize], int64(first)*BlockSize); err != nil {
		return fmt.Errorf("read blocks %d to %d: %w", first, first+n-1, noEOF(err))
	}
	return nil
}

// noEOF turns the end of a file before its time into an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// mark sets the bits of blocks that extents, in bytes, touch.
func mark(b bitmap, extents [][2]int64, blocks int) error {
	for _, e := range extents {
		off, length := e[0], e[1]
		if off < 0 || length < 0 || off > int64(blocks)*BlockSize-length {
			return fmt.Errorf("%d bytes at %d of a disk of %d blocks of %d bytes", length, off, blocks, BlockSize)
		}
		if length == 0 {
			continue
		}
		for block := off / BlockSize; block*BlockSize < off+length; block++ {
			b.set(int(block))
		}
	}
	return nil
}

// runs visits the runs of set bits, none longer than most.
func runs(b bitmap, most int, visit func(first, n int) error) error {
	for first := b.next(0); first >= 0; {
		n := 1
		for n < most && first+n < len(b)*64 && b.has(first+n) {
			n++
		}
		if err := visit(first, n); err != nil {
			return err
		}
		first = b.next(first + n)
	}
	return nil
}

package codec

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// compressor makes one batch's bytes fewer, and back. Both directions take a
// batch by itself: what one batch has is not used for the next.
type compressor interface {
	// compress appends src, compressed, to dst.
	compress(dst, src []byte) []byte
	// expand fills dst with what src stands for, exactly.
	expand(dst, src []byte) error
}

// newCompressor makes one of Compressors.
func newCompressor(name string) compressor {
	switch name {
	case "zip":
		return &zip{}
	case "zstd-1":
		return &zst{level: zstd.SpeedFastest}
	case "zstd-3":
		return &zst{level: zstd.SpeedDefault}
	case "lz4":
		return &lz{}
	}
	return nil
}

// zip is deflate (RFC 1951) at zlib's default level, what a zip tunnel does.
type zip struct {
	w   *flate.Writer
	out bytes.Buffer
	r   io.ReadCloser
}

const zipLevel = 6

func (z *zip) compress(dst, src []byte) []byte {
	z.out.Reset()
	if z.w == nil {
		z.w, _ = flate.NewWriter(&z.out, zipLevel) // it fails for levels that do not exist
	} else {
		z.w.Reset(&z.out)
	}
	// A bytes.Buffer takes everything.
	_, _ = z.w.Write(src)
	_ = z.w.Close()
	return append(dst, z.out.Bytes()...)
}

func (z *zip) expand(dst, src []byte) error {
	in := bytes.NewReader(src)
	if z.r == nil {
		z.r = flate.NewReader(in)
	} else if err := z.r.(flate.Resetter).Reset(in, nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(z.r, dst); err != nil {
		return err
	}
	var more [1]byte
	if n, err := z.r.Read(more[:]); n != 0 || err != io.EOF {
		return fmt.Errorf("more than the %d bytes that were announced", len(dst))
	}
	return nil
}

// zst is zstd (RFC 8878).
type zst struct {
	level zstd.EncoderLevel
	enc   *zstd.Encoder
	dec   *zstd.Decoder
}

// zstdWindow covers a whole batch.
const zstdWindow = 4 << 20

func (z *zst) compress(dst, src []byte) []byte {
	if z.enc == nil {
		z.enc = newZstdEncoder(z.level)
	}
	return z.enc.EncodeAll(src, dst)
}

func (z *zst) expand(dst, src []byte) error {
	if z.dec == nil {
		z.dec = newZstdDecoder()
	}
	return expandZstd(z.dec, dst, src)
}

func newZstdEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(zstdWindow))
	if err != nil {
		panic("zstd encoder: " + err.Error()) // the options above are constants
	}
	return e
}

// readyDecoder is one whose memory is there.
func readyDecoder() *zstd.Decoder {
	d := newZstdDecoder()
	if coarse() {
		e := borrow(zstd.SpeedFastest)
		defer giveBack(zstd.SpeedFastest, e)
		// What it gives is what went in.
		_, _ = d.DecodeAll(e.EncodeAll(exercise(), nil), present(len(exercise())))
	}
	return d
}

func newZstdDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(2*zstdWindow))
	if err != nil {
		panic("zstd decoder: " + err.Error())
	}
	return d
}

// expandZstd never takes more than dst has room for.
func expandZstd(d *zstd.Decoder, dst, src []byte) error {
	out, err := d.DecodeAll(src, dst[:0:len(dst)])
	if err != nil {
		return err
	}
	if len(out) != len(dst) {
		return fmt.Errorf("%d bytes, expected %d", len(out), len(dst))
	}
	return nil
}

// lz is one block of LZ4.
type lz struct{ c lz4.Compressor }

func (z *lz) compress(dst, src []byte) []byte {
	at, room := len(dst), lz4.CompressBlockBound(len(src))
	dst = grow(dst, room)
	n, err := z.c.CompressBlock(src, dst[at:at+room])
	if err != nil || n == 0 {
		return append(dst[:at], src...) // no room, or no gain: the caller sees that it is not smaller
	}
	return dst[:at+n]
}

func (z *lz) expand(dst, src []byte) error {
	n, err := lz4.UncompressBlock(src, dst)
	if err != nil {
		return err
	}
	if n != len(dst) {
		return fmt.Errorf("%d bytes, expected %d", n, len(dst))
	}
	return nil
}

// grow makes b longer by n bytes of no particular value.
func grow(b []byte, n int) []byte {
	if len(b)+n <= cap(b) {
		return b[:len(b)+n]
	}
	out := make([]byte, len(b)+n, 2*(len(b)+n))
	copy(out, b)
	return out
}

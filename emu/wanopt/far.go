package wanopt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/warm"
)

// backChunk is how much of what QEMU says at the far end is sent at a time.
const backChunk = 32 << 10

// Serve carries one migration to the QEMU that Dial reaches. It returns when that
// has taken all and the near end has left; or with an error, after the connections
// to QEMU have been closed.
func (f Far) Serve(ctx context.Context) (*Stats, error) {
	first, err := f.Accept(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("wait for the near end: %w", err)
	}
	began, cpu := time.Now(), processCPU()
	all := &gathering{warn: f.Warn}
	err = together(ctx, func(ctx context.Context, start func(func() error)) error {
		more, enough := context.WithCancel(ctx)
		start(func() error {
			for channel := 1; channel < mostStreams; channel++ {
				session, err := f.Accept(more, uint8(channel))
				if more.Err() != nil {
					if err == nil {
						_ = session.Close()
					}
					return nil
				}
				if err != nil {
					return fmt.Errorf("accept connection %d of QEMU's: %w", channel+1, err)
				}
				start(func() error { return f.stream(ctx, session, uint8(channel), all) })
			}
			return nil
		})
		err := f.stream(ctx, first, 0, all)
		enough()
		return err
	})
	st := all.finish(time.Since(began), processCPU()-cpu)
	if err != nil {
		return st, fmt.Errorf("far end: %w", err)
	}
	return st, nil
}

// farStream is one connection to QEMU.
type farStream struct {
	Far
	conn    net.Conn
	channel uint8
	line    *line
	all     *gathering

	sum    hash.Hash // of what was written
	reader reader
	dec    codec.Decoder
	blocks blocks
	memory []byte // as the near end has sent it
	out    []byte // what a batch stands for
	check  xxh3.Hasher
	greets bool
	cpu    time.Duration
	stats  Stats
	back   int64
}

func (f Far) stream(ctx context.Context, session wire.Session, channel uint8, all *gathering) error {
	defer session.Close()
	s := &farStream{Far: f, channel: channel, line: &line{Session: session, peer: "near end"}, all: all, sum: sha256.New(), cpu: processCPU()}
	err := s.serve(ctx)
	if err != nil {
		s.line.say(msgFailed, err)
	}
	s.account()
	return err
}

func (s *farStream) serve(ctx context.Context) (err error) {
	if s.conn, err = s.Dial(ctx); err != nil {
		return fmt.Errorf("connect to QEMU: %w", err)
	}
	defer s.conn.Close()
	if s.reader.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true)); err != nil {
		return fmt.Errorf("decompressor: %w", err)
	}
	defer s.reader.zstd.Close()
	return together(ctx, func(ctx context.Context, start func(func() error)) error {
		ended, end := context.WithCancel(ctx)
		stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() }) // ends what waits for QEMU
		defer stop()
		start(func() error { return s.listen(ended) })
		err := s.run(ctx)
		end()
		_ = s.conn.Close()
		return err
	})
}

// listen sends back what QEMU says until it says no more.
func (s *farStream) listen(ctx context.Context) error {
	buf := make([]byte, backChunk)
	for {
		n, err := s.conn.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if n > 0 {
			s.back += int64(n)
			if err := s.line.Send(ctx, msgBack, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			if !hangUp(err) {
				return fmt.Errorf("read from QEMU: %w", err)
			}
			return s.line.Send(ctx, msgBackEnd, nil)
		}
	}
}

// run gives QEMU the stream until the near end has left.
func (s *farStream) run(ctx context.Context) error {
	proven := false
	for {
		m, err := s.line.Receive(ctx)
		switch {
		case err != nil && proven && errors.Is(err, ErrGone):
			return nil
		case err != nil:
			return err
		case m.Type == msgLeft:
			return fmt.Errorf("the near end: %s", m.Payload)
		case proven:
			return fmt.Errorf("the near end sent a message of type %d after the end", m.Type)
		case m.Type != msgHello && !s.greets:
			return fmt.Errorf("the near end began with a message of type %d", m.Type)
		}
		switch m.Type {
		case msgHello:
			err = s.hello(m.Payload)
		case msgMemory:
			err = s.make(m.Payload)
		case msgBatch:
			err = s.place(ctx, m.Payload)
		case msgEnd:
			proven = true
			err = s.prove(ctx, m.Payload)
		default:
			err = fmt.Errorf("the near end sent a message of type %d", m.Type)
		}
		if err != nil {
			return err
		}
	}
}

func (s *farStream) hello(b []byte) error {
	var h hello
	if err := json.Unmarshal(b, &h); err != nil {
		return fmt.Errorf("the near end's hello: %w", err)
	}
	if h.Version != version {
		return fmt.Errorf("the near end speaks version %d, this is %d: both must be the same vpclab", h.Version, version)
	}
	s.greets = true
	return nil
}

// make makes room for a guest's memory, and the decoder.
func (s *farStream) make(b []byte) error {
	var is memoryIs
	if err := json.Unmarshal(b, &is); err != nil {
		return fmt.Errorf("what the near end says of the guest: %w", err)
	}
	if s.dec != nil {
		return errors.New("the near end tells twice of the guest's memory")
	}
	for _, b := range is.Blocks {
		if b.Pages < 1 || b.Pages > mostPages || len(b.Name) > 255 || len(s.blocks) == mostBlocks {
			return fmt.Errorf("the near end tells of a block %.255q of %d pages", b.Name, b.Pages)
		}
		s.blocks = append(s.blocks, block{name: b.Name, first: s.blocks.pages(), pages: b.Pages})
	}
	pages := s.blocks.pages()
	if most := s.MostMemory / pageSize; pages != is.Codec.Pages || pages > mostPages || most > 0 && int64(pages) > most {
		return fmt.Errorf("the near end tells of a guest of %d pages (%d in blocks); this end allows for %d bytes (0: no bound)", is.Codec.Pages, pages, s.MostMemory)
	}
	var err error
	if s.memory, err = unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err != nil {
		return fmt.Errorf("map %d bytes for the guest's memory: %w", pages*pageSize, err)
	}
	if s.dec, err = codec.NewDecoder(is.Codec); err != nil {
		return err
	}
	if warm.Dear() { // now, and not batch by batch
		_ = warm.Range(s.memory) // a kernel that cannot lets pages come one by one
	}
	return nil
}

// place gives QEMU what a batch stands for. Not a byte of it is given before all
// of them are known to be right.
func (s *farStream) place(ctx context.Context, b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("batch %d: %w: %d bytes", s.stats.Batches, errBatch, len(b))
	}
	order, pages, err := s.reader.open(b[8:])
	if err == nil && len(pages) > 0 {
		if s.dec == nil {
			return fmt.Errorf("batch %d: %w: pages of a guest that was not told of", s.stats.Batches, errBatch)
		}
		err = s.dec.Decode(s.memory, pages, func(int) {})
	}
	s.out = s.out[:0]
	if err == nil {
		err = write(order, s.blocks, s.memory, func(part []byte) error {
			s.out = append(s.out, part...)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("batch %d: %w", s.stats.Batches, err)
	}
	s.check.Reset()
	_, _ = s.check.Write(s.out) // it takes everything
	if s.check.Sum64() != binary.BigEndian.Uint64(b) {
		return fmt.Errorf("batch %d: %w", s.stats.Batches, ErrDiffers)
	}
	if err := s.give(ctx, s.out); err != nil {
		return err
	}
	_, _ = s.sum.Write(s.out)
	s.stats.Bytes += int64(len(s.out))
	s.stats.Batches++
	return s.done(ctx)
}

// lookUp is how long QEMU may take nothing before the near end is told so: that
// fails when it has left.
const lookUp = 500 * time.Millisecond

// give writes to QEMU.
func (s *farStream) give(ctx context.Context, b []byte) error {
	for {
		if err := s.conn.SetWriteDeadline(time.Now().Add(lookUp)); err != nil {
			return fmt.Errorf("write to QEMU: %w", err)
		}
		n, err := s.conn.Write(b)
		if b = b[n:]; err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("write to QEMU: %w", err)
		}
		if err := s.done(ctx); err != nil {
			return err
		}
	}
}

// done tells the near end how much QEMU has taken.
func (s *farStream) done(ctx context.Context) error {
	return s.line.Send(ctx, msgDone, u64(uint64(s.stats.Batches)))
}

// prove tells QEMU that there is no more, and the near end what it was given.
func (s *farStream) prove(ctx context.Context, b []byte) error {
	var theirs sum
	if err := json.Unmarshal(b, &theirs); err != nil {
		return fmt.Errorf("the near end's hash: %w", err)
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // it may be gone
	}
	s.stats.SHA256 = hex.EncodeToString(s.sum.Sum(nil))
	s.stats.Equal = s.stats.SHA256 == theirs.SHA256 && s.stats.Bytes == theirs.Bytes
	s.count()
	s.stats.CPU = processCPU() - s.cpu
	if err := tellJSON(ctx, s.line, msgProof, s.stats); err != nil {
		return err
	}
	if !s.stats.Equal {
		return fmt.Errorf("%w: %d bytes of hash %s went in, %d of %s came out", ErrDiffers, theirs.Bytes, theirs.SHA256, s.stats.Bytes, s.stats.SHA256)
	}
	return nil
}

// count fills in what is known at any time.
func (s *farStream) count() {
	wan := s.line.Stats()
	s.stats.WANOut, s.stats.WANIn, s.stats.Reconnects = wan.Out, wan.In, wan.Reconnects
	if s.dec != nil {
		s.stats.Encoders, s.stats.Footprint = s.dec.Usage(), s.dec.Footprint()+int64(len(s.memory))
	}
}

// account closes the stream's books.
func (s *farStream) account() {
	s.count()
	s.stats.Back = s.back
	s.all.add(s.channel, s.stats)
	if s.dec != nil {
		s.dec.Close()
	}
	if s.memory != nil {
		_ = unix.Munmap(s.memory) // it can fail only for what is not mapped
	}
}

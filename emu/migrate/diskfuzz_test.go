package migrate_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// script is a session whose other end says what it was written to say, and then
// closes it: messages of a type, two bytes of length, and a payload.
type script struct {
	rest []byte
	sent int
}

func (s *script) Receive(context.Context) (wire.Message, error) {
	if len(s.rest) < 3 {
		return wire.Message{}, io.EOF
	}
	m := wire.Message{Type: wire.Type(s.rest[0])}
	n := min(int(binary.BigEndian.Uint16(s.rest[1:])), len(s.rest)-3)
	m.Payload, s.rest = s.rest[3:3+n], s.rest[3+n:]
	return m, nil
}

func (s *script) Send(_ context.Context, _ wire.Type, p []byte) error {
	s.sent += len(p)
	return nil
}
func (s *script) Flush(context.Context) error { return nil }
func (s *script) Waiting() time.Duration      { return 0 }
func (s *script) Stats() wire.Stats           { return wire.Stats{} }
func (s *script) Close() error                { return nil }

func say(t byte, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{t}, uint16(len(payload))), payload...)
}

// FuzzDiskTarget lets the target of a disk receive anything after a true begin.
// It fails, and writes nothing outside of the disk; a batch that is not whole is
// not written at all.
func FuzzDiskTarget(f *testing.F) {
	f.Add(append(say(66, make([]byte, 8)), say(65, []byte{1, 0})...))
	f.Add(append(say(66, make([]byte, 8)), say(65, []byte{0, 1, 3, 1, 'v', 'b', 1})...))
	f.Add(append(say(66, make([]byte, 8)), say(67, make([]byte, 32))...))
	f.Add(say(65, []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}))
	opt := migrate.DiskOptions{Reuse: true, Cache: 8192}
	begin := say(64, migrate.DiskBeginOf(opt, 4))
	enc, err := codec.NewEncoder(codec.Config{Pages: codec.MaxBatch, Zero: true, CBR: true, Cache: 8192, Compress: "zstd-1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(say(66, make([]byte, 8)), say(65, enc.Encode(migrate.DiskBatchOf(true, 1, 3), []uint32{0, 1}, make([]byte, 2*block)))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newTestDisk(4)
		s := &script{rest: append(bytes.Clone(begin), b...)}
		r := migrate.ReceiveDisk(t.Context(), s, d, opt)
		if _, err := r.Wait(t.Context()); err == nil {
			t.Fatal("a disk was proven that was never sent")
		}
		if s.sent > 1<<16 {
			t.Fatalf("%d bytes were sent for %d", s.sent, len(b))
		}
	})
}

// FuzzDiskSource lets the source of a disk receive anything. It fails, and the
// VM is let go.
func FuzzDiskSource(f *testing.F) {
	f.Add(say(96, nil))
	f.Add(append(say(97, make([]byte, 32)), say(98, make([]byte, 128))...))
	f.Add(append(say(96, nil), say(99, []byte{0, 0, 0, 0, 0, 0, 0, 9})...))
	f.Add(say(102, []byte("no room")))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, reuse := range []bool{false, true} {
			d := newTestDisk(4)
			copy(d.image, "some data")
			m, err := migrate.SendDisk(t.Context(), &script{rest: b}, d, migrate.DiskOptions{Reuse: reuse, Cache: 8192})
			if err == nil {
				err = m.Settle(t.Context())
				m.Close()
			}
			if err == nil {
				t.Fatal("a disk was settled that nobody received")
			}
			if d.mirror != nil {
				<-d.mirror.closed
			}
		}
	})
}

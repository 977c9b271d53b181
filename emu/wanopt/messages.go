package wanopt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Messages of a stream; docs/wanopt.md has their contents. The near end's:
const (
	msgHello  wire.Type = 64 // JSON: hello, once a stream, first
	msgMemory wire.Type = 65 // JSON: memoryIs, before the first page
	msgBatch  wire.Type = 66 // u64 xxh3 of the part of the stream, a batch
	msgEnd    wire.Type = 67 // JSON: sum: QEMU has closed its end
	msgLeft   wire.Type = 68 // text: the near end gives up
)

// The far end's:
const (
	msgDone    wire.Type = 80 // u64 batches that QEMU has taken so far
	msgBack    wire.Type = 81 // bytes that QEMU says
	msgBackEnd wire.Type = 82 // it says no more
	msgProof   wire.Type = 83 // JSON: Stats
	msgFailed  wire.Type = 84 // text: the far end gives up
)

// version of what the two ends say to each other.
const version = 1

type hello struct{ Version int }

type memoryIs struct {
	Codec  codec.Config
	Blocks []blockIs
}

type blockIs struct {
	Name  string
	Pages int
}

// sum is of a stream, or of its end.
type sum struct {
	Bytes  int64
	SHA256 string
}

// line is one end's session. Several goroutines may send.
type line struct {
	wire.Session
	mu   sync.Mutex
	peer string // the other end, in errors
}

func (l *line) Send(ctx context.Context, t wire.Type, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.Session.Send(ctx, t, payload); err != nil {
		return l.gone("send to", err)
	}
	return nil
}

func (l *line) Receive(ctx context.Context) (wire.Message, error) {
	m, err := l.Session.Receive(ctx)
	if err != nil {
		return m, l.gone("receive from", err)
	}
	return m, nil
}

// gone says that the other end is, where that is what an error means.
func (l *line) gone(what string, err error) error {
	var ended *wire.EndedError
	if err == io.EOF || errors.As(err, &ended) {
		return fmt.Errorf("%s the %s: %w", what, l.peer, ErrGone)
	}
	return fmt.Errorf("%s the %s: %w", what, l.peer, err)
}

// lastWords are said when an end gives up, if they can be at once.
const lastWords = time.Second

func (l *line) say(t wire.Type, why error) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_ = l.Send(ctx, t, []byte(why.Error())) // who cannot be told finds out
}

func tellJSON(ctx context.Context, l *line, t wire.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("a message of type %d: %w", t, err) // plain structs: cannot happen
	}
	return l.Send(ctx, t, b)
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func parseU64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a number of %d bytes in place of 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// processCPU is the processor time that this process has used, all its threads.
func processCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hangUp says whether an error of a connection means that it has ended.
func hangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed)
}

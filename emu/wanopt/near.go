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
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

const (
	// chunk is what is read of QEMU at a time, and chunks how many there are:
	// what is encoded, what waits, what is read into.
	chunk  = 256 << 10
	chunks = 4
	// linger is how long pages wait for more to come along with them, and a part
	// of a page for its rest. What is not a page waits for nothing.
	linger = 4 * time.Millisecond
	// proofIn is how long the far end may take to give QEMU what it has, and
	// backIn how long QEMU there may take to hang up after it has all.
	proofIn = 60 * time.Second
	backIn  = 5 * time.Second
	// leastSpare has the encoder compress, by ways that are worth the name,
	// as long as it is not itself what all else waits for: a guest whose processor
	// is emulated leaves none idle, and is no reason to send twice as much.
	leastSpare = 0.5
	// mostStreams is how many connections a QEMU may make: a channel is a byte.
	mostStreams = 256
)

// Serve carries one migration: of the QEMU that connects to l. It returns when
// the far end has given all of it to the QEMU there and both hashes are the same;
// or with an error, after the connections to QEMU have been closed, so that its
// migration fails and its guest goes on. l stays open.
func (n Near) Serve(ctx context.Context, l net.Listener) (*Stats, error) {
	if len(n.Encoders) == 0 {
		n.Encoders = encodersOf[All]
	}
	if _, err := codec.Parse(codec.Config{Pages: 1, Block: n.Block, Cache: n.Cache}, n.Encoders); err != nil {
		return nil, err
	}
	first, err := accept(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("wait for QEMU to connect: %w", err)
	}
	if n.Begun != nil {
		n.Begun()
	}
	began, cpu := time.Now(), processCPU()
	all := &gathering{warn: n.Warn}
	err = together(ctx, func(ctx context.Context, start func(func() error)) error {
		// Whatever else QEMU opens: pages by several connections, or those that
		// are asked for.
		more, enough := context.WithCancel(ctx)
		start(func() error {
			for channel := 1; ; channel++ {
				conn, err := accept(more, l)
				if more.Err() != nil {
					if err == nil {
						_ = conn.Close()
					}
					return nil
				}
				if err == nil && channel == mostStreams {
					_ = conn.Close()
					err = fmt.Errorf("more than %d", mostStreams)
				}
				if err != nil {
					return fmt.Errorf("QEMU's further connections: %w", err)
				}
				start(func() error { return n.stream(ctx, conn, uint8(channel), all) })
			}
		})
		err := n.stream(ctx, first, 0, all)
		enough()
		return err
	})
	st := all.finish(time.Since(began), processCPU()-cpu)
	if err != nil {
		return st, fmt.Errorf("near end: %w", err)
	}
	return st, nil
}

// accept waits for a connection, or for ctx.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil, fmt.Errorf("listener %T has no deadlines", l)
	}
	if err := d.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = d.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.Accept()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

// together runs body, and what that starts, and waits for all of it. The first
// error ends all.
func together(ctx context.Context, body func(ctx context.Context, start func(func() error)) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(f func() error) {
		if err := f(); err != nil {
			cancel(err)
		}
	}
	start := func(f func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			run(f)
		}()
	}
	run(func() error { return body(ctx, start) })
	wg.Wait()
	return context.Cause(ctx)
}

// nearStream is one connection of QEMU's.
type nearStream struct {
	Near
	conn    net.Conn
	channel uint8
	line    *line
	carrier migrate.Carrier
	all     *gathering

	in    chan []byte // what was read
	empty chan []byte // what can be read into
	eof   error       // why there is no more; once in is closed
	sum   hash.Hash   // of what was read

	parser  *parser
	builder builder
	check   xxh3.Hasher // of what the batch at hand stands for
	enc     codec.Encoder
	pack    *zstd.Encoder // of orders; nil: they are not compressed
	scratch []byte
	out     []byte
	ship    func()         // sends the batch at hand
	tell    func(memoryIs) // tells the far end of the guest
	err     error          // of what either has sent

	proof   chan Stats
	backEnd chan struct{}
	bytes   int64
	back    int64
	stats   Stats
	idle    time.Duration
}

func (n Near) stream(ctx context.Context, conn net.Conn, channel uint8, all *gathering) error {
	defer conn.Close()
	session, err := n.Open(ctx, channel)
	if err != nil {
		return fmt.Errorf("connect to the far end: %w", err)
	}
	defer session.Close()
	s := &nearStream{
		Near: n, conn: conn, channel: channel, line: &line{Session: session, peer: "far end"}, carrier: migrate.NewCarrier(session, leastSpare), all: all,
		in: make(chan []byte, chunks), empty: make(chan []byte, chunks), sum: sha256.New(),
		proof: make(chan Stats, 1), backEnd: make(chan struct{}),
	}
	defer s.carrier.Close()
	s.parser = newParser(s)
	for range chunks {
		s.empty <- make([]byte, chunk)
	}
	if s.packs() {
		if s.pack, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)); err != nil {
			return fmt.Errorf("compressor: %w", err)
		}
		defer s.pack.Close()
	}
	err = together(ctx, func(ctx context.Context, start func(func() error)) error {
		ended, end := context.WithCancel(ctx)
		defer end()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends what waits for QEMU
		defer stop()
		start(func() error { return s.hear(ended) })
		reading := make(chan struct{})
		go func() {
			defer close(reading)
			s.read(ended)
		}()
		err := s.run(ctx)
		if errors.Is(err, ErrGone) {
			heard(ctx)
		}
		end()
		_ = conn.Close()
		<-reading
		return err
	})
	if err != nil {
		s.line.say(msgLeft, err)
	}
	s.account()
	return err
}

// heard gives the other end's reason for leaving, which may be behind what it has
// said before, the time to be the first one.
func heard(ctx context.Context) {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// packs says whether what is not pages is compressed.
func (n Near) packs() bool { return !slices.Equal(n.Encoders, []string{"raw"}) }

// read reads what QEMU says until it says no more.
func (s *nearStream) read(ctx context.Context) {
	defer close(s.in)
	for {
		var buf []byte
		select {
		case buf = <-s.empty:
		case <-ctx.Done():
			s.eof = context.Cause(ctx)
			return
		}
		n, err := s.conn.Read(buf[:chunk])
		if n > 0 {
			s.sum.Write(buf[:n])
			s.bytes += int64(n)
			s.in <- buf[:n] // it has room for all there are
		}
		if err != nil {
			s.eof = err
			return
		}
	}
}

// run carries the stream until the far end has proven that QEMU has it.
func (s *nearStream) run(ctx context.Context) error {
	if err := tellJSON(ctx, s.line, msgHello, hello{Version: version}); err != nil {
		return err
	}
	if err := s.carry(ctx); err != nil {
		return err
	}
	if !hangUp(s.eof) {
		return fmt.Errorf("read from QEMU: %w", s.eof)
	}
	ours := sum{Bytes: s.bytes, SHA256: hex.EncodeToString(s.sum.Sum(nil))}
	if err := tellJSON(ctx, s.line, msgEnd, ours); err != nil {
		return err
	}
	theirs, err := within(ctx, s.proof, proofIn, "the far end's proof")
	if err != nil {
		return err
	}
	if theirs.Bytes != ours.Bytes || theirs.SHA256 != ours.SHA256 {
		return fmt.Errorf("%w: %d bytes of hash %s went in, %d of %s came out", ErrDiffers, ours.Bytes, ours.SHA256, theirs.Bytes, theirs.SHA256)
	}
	s.stats.SHA256, s.stats.Equal, s.stats.Theirs = ours.SHA256, true, &theirs
	// What QEMU there has still to say is worth some time, and no failure.
	timer := time.NewTimer(backIn)
	defer timer.Stop()
	select {
	case <-s.backEnd:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// within waits for a value.
func within[T any](ctx context.Context, c <-chan T, d time.Duration, what string) (v T, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case v = <-c:
		return v, nil
	case <-timer.C:
		return v, fmt.Errorf("wait for %s: it did not come in %v", what, d)
	case <-ctx.Done():
		return v, fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
	}
}

// carry sends what QEMU says until it says no more.
func (s *nearStream) carry(ctx context.Context) error {
	do := func(f func() error) {
		if s.err == nil {
			s.err = f()
		}
	}
	s.ship = func() { do(func() error { return s.sendBatch(ctx) }) }
	s.tell = func(is memoryIs) { do(func() error { return tellJSON(ctx, s.line, msgMemory, is) }) }
	for {
		c, more, late := s.next(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case late || !more:
			s.parser.flush()
			s.ship()
		default:
			s.parser.write(c)
			s.empty <- c[:chunk] // it has room for all there are
		}
		if s.err != nil {
			return s.err
		}
		if !more {
			return nil
		}
	}
}

// next is what QEMU says next. What has been recognised until then is sent
// before there is a wait for more that nobody knows the end of: at once if it ends
// with other things than pages, and else after linger (late).
func (s *nearStream) next(ctx context.Context) (c []byte, more, late bool) {
	select {
	case c, more = <-s.in:
		return c, more, false
	default:
	}
	if s.builder.open.kind == entryRaw && s.builder.open.n > 0 {
		if s.ship(); s.err != nil {
			return nil, true, false
		}
	}
	began := time.Now()
	defer func() {
		d := time.Since(began)
		s.idle += d
		s.carrier.Idled(d)
	}()
	var enough <-chan time.Time
	if !s.builder.empty() || s.parser.holds() {
		timer := time.NewTimer(linger)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case c, more = <-s.in:
		return c, more, false
	case <-enough:
		return nil, true, true
	case <-ctx.Done():
		return nil, true, false
	}
}

// What follows is the parser's sink.

func (s *nearStream) raw(b []byte) {
	s.stats.Other += int64(len(b))
	for len(b) > 0 {
		rest := s.builder.raw(b)
		_, _ = s.check.Write(b[:len(b)-len(rest)]) // it takes everything
		if b = rest; s.builder.full() {
			s.ship()
		}
	}
}

func (s *nearStream) page(f found, rec []byte) {
	if s.builder.full() || !f.zero && !s.builder.takes(f.page, s.carrier.Batch()) {
		s.ship()
	}
	_, _ = s.check.Write(rec)
	s.stats.Pages++
	if f.zero {
		s.stats.Zeros++
	}
	s.builder.page(f, rec)
}

// memory makes the encoder for a guest whose blocks are known.
func (s *nearStream) memory(b blocks) bool {
	c := codec.Config{Pages: b.pages(), Block: s.Block, Cache: s.Cache}
	if size := int64(c.Pages) * pageSize; s.MostMemory > 0 && size > s.MostMemory {
		s.odd(fmt.Sprintf("the guest has %d bytes of memory, and %d are allowed for: its pages go through as they are", size, s.MostMemory))
		return false
	}
	c, err := codec.Parse(c, s.Encoders)
	if err == nil {
		s.enc, err = codec.NewEncoder(c)
	}
	if err != nil {
		s.odd(fmt.Sprintf("there is no encoder for it: %v", err))
		return false
	}
	s.carrier.Tell(s.enc)
	is := memoryIs{Codec: c}
	for _, one := range b {
		is.Blocks = append(is.Blocks, blockIs{one.name, one.pages})
	}
	s.tell(is)
	return s.err == nil
}

func (s *nearStream) odd(what string) { s.all.odd(s.channel, what) }

// sendBatch sends the batch at hand, if there is anything in it.
func (s *nearStream) sendBatch(ctx context.Context) error {
	if s.builder.empty() {
		return nil
	}
	if err := s.carrier.Room(ctx); err != nil {
		return err
	}
	s.out = binary.BigEndian.AppendUint64(s.out[:0], s.check.Sum64())
	s.out = s.builder.order(s.out, s.pack, &s.scratch)
	if len(s.builder.pages) > 0 {
		s.out = s.enc.Encode(s.out, s.builder.pages, s.builder.data)
	}
	pages := max(1, len(s.builder.pages))
	s.builder.reset()
	s.check.Reset()
	s.stats.Batches++
	if err := s.carrier.Put(ctx, msgBatch, s.out, pages); err != nil {
		return s.line.gone("send to", err)
	}
	return nil
}

// hear listens to the far end until ctx ends.
func (s *nearStream) hear(ctx context.Context) error {
	for {
		m, err := s.line.Receive(ctx)
		if ctx.Err() != nil {
			return nil // whoever ended it says why
		}
		if err == nil {
			err = s.heard(m)
		}
		if err != nil {
			s.carrier.Fail(err)
			return err
		}
	}
}

func (s *nearStream) heard(m wire.Message) error {
	switch m.Type {
	case msgDone:
		n, err := parseU64(m.Payload)
		if err != nil {
			return err
		}
		return s.carrier.Placed(n)
	case msgBack:
		s.back += int64(len(m.Payload))
		if _, err := s.conn.Write(m.Payload); err != nil && !hangUp(err) {
			return fmt.Errorf("write to QEMU what QEMU there says: %w", err)
		}
		return nil
	case msgBackEnd:
		if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // it may be gone
		}
		close(s.backEnd)
		return nil
	case msgProof:
		var st Stats
		if err := json.Unmarshal(m.Payload, &st); err != nil {
			return fmt.Errorf("the far end's proof: %w", err)
		}
		select {
		case s.proof <- st:
			return nil
		default:
			return errors.New("the far end proves twice")
		}
	case msgFailed:
		return fmt.Errorf("the far end: %s", m.Payload)
	}
	return fmt.Errorf("the far end sent a message of type %d", m.Type)
}

// account closes the stream's books.
func (s *nearStream) account() {
	st := &s.stats
	st.Bytes, st.Back = s.bytes, s.back
	wan := s.line.Stats()
	st.WANOut, st.WANIn, st.Reconnects = wan.Out, wan.In, wan.Reconnects
	st.Waited.QEMU, st.Waited.Link = s.idle, s.carrier.Waited()-s.idle
	if s.enc != nil {
		st.Encoders, st.Footprint = s.enc.Usage(), s.enc.Footprint()
		s.enc.Close()
	}
	if s.channel == 0 && st.Bytes > 0 && st.Pages == 0 {
		s.odd("nothing was recognised in the stream: it went through as it is")
	}
	s.all.add(s.channel, *st)
}

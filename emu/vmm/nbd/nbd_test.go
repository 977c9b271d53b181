package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ram is a disk in memory. Its writes count when let says so, or at once where
// that is nil.
type ram struct {
	mu  sync.Mutex
	b   []byte
	let <-chan struct{}
}

func (r *ram) Size() int64 { return int64(len(r.b)) }

func (r *ram) ReadAt(b []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(b, r.b[off:]), nil
}

func (r *ram) Write(b []byte, off int64) (<-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.b[off:], b)
	if r.let != nil {
		return r.let, nil
	}
	return closed, nil
}

// client is a test's: it goes through the handshake and speaks.
type client struct {
	t    *testing.T
	conn net.Conn
}

func serve(t *testing.T, d Device) (*Server, *client) {
	ours, theirs := net.Pipe()
	s := Serve(theirs, d)
	t.Cleanup(func() { s.Close() })
	require.NoError(t, ours.SetDeadline(time.Now().Add(30*time.Second)))
	return s, &client{t, ours}
}

func (c *client) write(b []byte) {
	_, err := c.conn.Write(b)
	require.NoError(c.t, err)
}

func (c *client) read(n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c.conn, b)
	require.NoError(c.t, err)
	return b
}

func option(opt uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, optionMagic)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// hello has the transmission begin.
func (c *client) hello() {
	b := c.read(18)
	require.Equal(c.t, "NBDMAGICIHAVEOPT", string(b[:16]))
	c.write([]byte{0, 0, 0, flagFixedNewstyle | flagNoZeroes})
	c.write(option(optExportName, []byte("any")))
	c.read(10)
}

func ask(cmd uint16, cookie, off uint64, length uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, requestMagic)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, data...)
}

// answer reads a reply's head.
func (c *client) answer() (cookie uint64, code uint32) {
	b := c.read(replySize)
	require.Equal(c.t, uint32(replyMagic), binary.BigEndian.Uint32(b))
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[4:])
}

func TestRequests(t *testing.T) {
	d := &ram{b: bytes.Repeat([]byte{7}, 1<<20)}
	_, c := serve(t, d)
	c.hello()
	for _, q := range []struct {
		name string
		ask  []byte
		code uint32
		data []byte
	}{
		{"write", ask(cmdWrite, 1, 4096, 3, []byte("abc")), wireOK, nil},
		{"read what was written, and beside it", ask(cmdRead, 2, 4095, 5, nil), wireOK, []byte("\x07abc\x07")},
		{"zeroes over the last byte", ask(cmdWriteZeroes, 3, 4098, 1, nil), wireOK, nil},
		{"read them", ask(cmdRead, 4, 4096, 4, nil), wireOK, []byte("ab\x00\x07")},
		{"flush", ask(cmdFlush, 5, 0, 0, nil), wireOK, nil},
		{"trim", ask(cmdTrim, 6, 0, 4096, nil), wireOK, nil},
		{"read nothing at the very end", ask(cmdRead, 7, 1<<20, 0, nil), wireOK, nil},
		{"read beyond the end", ask(cmdRead, 8, 1<<20-1, 2, nil), wireInvalid, nil},
		{"write beyond the end", ask(cmdWrite, 9, 1<<20-1, 2, []byte("xx")), wireInvalid, nil},
		{"write so far out that the sum overflows", ask(cmdWrite, 10, 1<<64-1, 2, []byte("xx")), wireInvalid, nil},
		{"zeroes of 4 GB", ask(cmdWriteZeroes, 11, 0, 1<<32-1, nil), wireInvalid, nil},
		{"a command of another year", ask(77, 12, 0, 0, nil), wireInvalid, nil},
		{"and it goes on", ask(cmdRead, 13, 4096, 1, nil), wireOK, []byte("a")},
	} {
		c.write(q.ask)
		cookie, code := c.answer()
		require.Equal(t, binary.BigEndian.Uint64(q.ask[8:]), cookie, q.name)
		require.Equal(t, q.code, code, q.name)
		require.Equal(t, string(q.data), string(c.read(len(q.data))), q.name)
	}
}

func TestConnectionEndsWhereNobodyKnowsTheNextRequest(t *testing.T) {
	for name, b := range map[string][]byte{
		"no request":              append(make([]byte, requestSize-1), 1),
		"a write of 33 MiB":       ask(cmdWrite, 1, 0, 33<<20, nil),
		"goodbye":                 ask(cmdDisconnect, 1, 0, 0, nil),
		"a read of all of memory": ask(cmdRead, 1, 0, 1<<32-1, nil),
	} {
		t.Run(name, func(t *testing.T) {
			s, c := serve(t, &ram{b: make([]byte, 4096)})
			c.hello()
			c.write(b)
			_, err := c.conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			<-s.Done()
		})
	}
}

// Who waits for another host holds up neither the reads behind nor the writes: a
// flush, which is for all before it, and a write that asks to.
func TestAWaitingWriteHoldsNobodyUp(t *testing.T) {
	let := make(chan struct{})
	d := &ram{b: make([]byte, 1<<20), let: let}
	_, c := serve(t, d)
	c.hello()
	c.write(ask(cmdWrite, 4, 0, 1, []byte("a")))
	cookie, _ := c.answer()
	require.Equal(t, uint64(4), cookie, "a write by itself is answered at once")
	c.write(ask(cmdFlush, 1, 0, 0, nil))
	now := ask(cmdWrite, 2, 1, 1, []byte("b"))
	now[5] = flagFUA
	c.write(now)
	c.write(ask(cmdRead, 3, 0, 2, nil))
	cookie, _ = c.answer()
	require.Equal(t, uint64(3), cookie)
	require.Equal(t, "ab", string(c.read(2)))
	close(let)
	got := map[uint64]bool{}
	for range 2 {
		cookie, code := c.answer()
		require.Equal(t, uint32(wireOK), code)
		got[cookie] = true
	}
	require.Equal(t, map[uint64]bool{1: true, 2: true}, got)
}

func TestReleaseAnswersAWriteThatDoesNotCountYet(t *testing.T) {
	d := &ram{b: make([]byte, 1<<20), let: make(chan struct{})}
	s, c := serve(t, d)
	c.hello()
	heard := func(want uint64) {
		t.Helper()
		cookie, _ := c.answer()
		require.Equal(t, want, cookie)
	}
	c.write(ask(cmdWrite, 1, 0, 1, []byte("a")))
	heard(1)
	c.write(ask(cmdFlush, 2, 0, 0, nil))
	s.Release()
	s.Release()
	heard(2)
	c.write(ask(cmdFlush, 3, 0, 0, nil))
	heard(3)
	s.Hold()
	s.Hold()
	c.write(ask(cmdFlush, 4, 0, 0, nil))
	c.write(ask(cmdRead, 5, 0, 1, nil))
	heard(5)
	c.read(1)
}

func TestOptions(t *testing.T) {
	_, c := serve(t, &ram{b: make([]byte, 12288)})
	c.read(18)
	c.write([]byte{0, 0, 0, flagFixedNewstyle})
	answer := func() (opt, kind uint32, data []byte) {
		b := c.read(20)
		require.Equal(t, uint64(answerMagic), binary.BigEndian.Uint64(b))
		return binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]), c.read(int(binary.BigEndian.Uint32(b[16:])))
	}
	for _, o := range []struct {
		opt  uint32
		data []byte
		want []uint32 // kinds of answers
	}{
		{8, nil, []uint32{repUnsupported}}, // structured replies
		{optList, nil, []uint32{repServer, repAck}},
		{optGo, []byte("shrt"), []uint32{repInvalid}},
		{optGo, []byte{0, 0, 1, 0, 'x', 0, 0}, []uint32{repInvalid}},
		{optInfo, []byte{0, 0, 0, 1, 'x', 0, 1, 0, 3}, []uint32{repInfo, repInfo, repAck}},
		{optInfo, make([]byte, maxOption+1), []uint32{repTooBig}},
	} {
		c.write(option(o.opt, o.data))
		for _, want := range o.want {
			opt, kind, _ := answer()
			require.Equal(t, o.opt, opt)
			require.Equal(t, want, kind)
		}
	}
	c.write(option(optGo, make([]byte, 6)))
	_, _, export := answer()
	require.Equal(t, uint64(12288), binary.BigEndian.Uint64(export[2:]))
	_, _, blocks := answer()
	require.Equal(t, uint32(leastBlock), binary.BigEndian.Uint32(blocks[2:]))
	_, kind, _ := answer()
	require.Equal(t, uint32(repAck), kind)
	c.write(ask(cmdFlush, 9, 0, 0, nil))
	cookie, _ := c.answer()
	require.Equal(t, uint64(9), cookie)
}

// QEMU's own client reads and writes all over, many requests at a time.
func TestQEMUsOwnClient(t *testing.T) {
	program, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skipf("no client of QEMU's here: %v", err)
	}
	path := filepath.Join(t.TempDir(), "nbd")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	d := &ram{b: make([]byte, 8<<20)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if assert.NoError(t, err) {
			<-Serve(conn, d).Done()
		}
	}()
	cmd := exec.Command(program, "-f", "raw", "nbd+unix:///?socket="+path,
		"-c", "write -P 0x11 0 2M", "-c", "write -P 0x22 512k 64k", "-c", "write -z 1M 256k",
		"-c", "aio_write -P 0x33 3M 64k", "-c", "aio_write -P 0x44 4M 64k", "-c", "aio_write -P 0x55 5M 1M", "-c", "aio_flush",
		"-c", "read -P 0x22 512k 64k", "-c", "read -P 0 1M 256k", "-c", "read -P 0x55 5M 1M", "-c", "read -P 0x11 1280k 256k",
		"-c", "discard 0 4k", "-c", "flush", "-c", "read -P 0x44 4M 64k", "-c", "read -P 0x33 3M 64k")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "failed")
	<-served
	require.Equal(t, bytes.Repeat([]byte{0x22}, 64<<10), d.b[512<<10:576<<10])
}

// Whatever a client says, the server ends without a panic, and never touches a
// byte beyond its disk.
func FuzzClient(f *testing.F) {
	start := append([]byte{0, 0, 0, 3}, option(optExportName, nil)...)
	f.Add(start)
	f.Add(append(bytes.Clone(start), ask(cmdWrite, 1, 4095, 1, []byte("x"))...))
	f.Add(append(bytes.Clone(start), ask(cmdWriteZeroes, 2, 1<<63, 1<<31, nil)...))
	f.Add(append(append([]byte{0, 0, 0, 1}, option(optGo, []byte{0, 0, 0, 0, 0, 0})...), ask(cmdRead, 3, 0, 4096, nil)...))
	f.Add(append([]byte{0, 0, 0, 3}, option(optInfo, []byte{255, 255, 255, 255, 0, 0})...))
	f.Add([]byte{0, 0, 0, 255})
	f.Fuzz(func(t *testing.T, says []byte) {
		ours, theirs := net.Pipe()
		s := Serve(theirs, &ram{b: make([]byte, 4096)})
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		_ = ours.SetWriteDeadline(time.Now().Add(10 * time.Second))
		for len(says) > 0 {
			n := min(len(says), 1+rand.IntN(64))
			if _, err := ours.Write(says[:n]); err != nil {
				break
			}
			says = says[n:]
		}
		require.NoError(t, ours.Close())
		<-s.Done()
		require.NoError(t, s.Close())
	})
}

package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"
)

// What clients and guests say to each other over TCP: a request, then its
// answer, each with its length before it. Numbers are little-endian.
//
//	request  u32 length of the rest, u8 kind, 3 × 0, u64 client, u64 count, padding
//	answer   u32 length of the rest, u8 kind, u8 status, 2 × 0, u64 value, u32 CRC-32C of the body, body
const (
	requestHead = 20
	answerHead  = 16
	maxRequest  = 64 << 10
	maxAnswer   = 256 << 10
)

// Kind of a request.
type Kind uint8

const (
	// Browse reads a page: memory is read, the answer has 4 to 40 KiB.
	Browse Kind = iota + 1
	// Buy writes: memory, blocks of the disk, and an increment of the ledger.
	// It is answered when the disk has it, and the mirror where there is one.
	Buy
	// Ping asks for a sign of life; the answer is small.
	Ping
	// Increment is an increment of the ledger and nothing else.
	Increment
	// Count asks how many increments of this client the ledger holds.
	Count
)

func (k Kind) String() string {
	switch k {
	case Browse:
		return "browse"
	case Buy:
		return "buy"
	case Ping:
		return "ping"
	case Increment:
		return "increment"
	case Count:
		return "count"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// counts tells whether a request of the kind is an increment of the ledger.
func (k Kind) counts() bool { return k == Buy || k == Increment }

// NextKind is what a user of the workload asks for next; u is a random number in
// [0, 1). A shop's are those of TPC-W's shopping mix: 80 % browse, 20 % order.
func NextKind(workload string, u float64) Kind {
	switch {
	case workload == TPCW && u < 0.8:
		return Browse
	case workload == TPCW:
		return Buy
	case u < 0.5:
		return Ping
	}
	return Increment
}

// Answer is what a guest answered.
type Answer struct {
	Kind  Kind
	Value uint64 // Count: increments of this client; else of all clients
	Wrote int64  // bytes that the guest wrote to its disk for it
	Body  []byte // valid until the next Do
}

// ErrFailed is a guest's answer that it could not do what was asked.
var ErrFailed = errors.New("the guest could not do it")

// Client is one user's connection to a guest. It is for one goroutine.
//
// It numbers its increments, so that one whose answer was lost can be sent again
// by a new Client with the same ID: it is counted once.
type Client struct {
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
	body   []byte
	id     uint64
	sent   uint64 // number of the last increment that was asked for
	acked  uint64 // … that was answered
	broken error
}

// Dial connects to the guest at address (host:port). id tells this client's
// increments from others'; acked is how many increments of it were acknowledged
// on earlier connections.
func Dial(ctx context.Context, address string, id, acked uint64) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("client %x: %w", id, err)
	}
	return NewClient(conn, id, acked), nil
}

// NewClient is a Client on a connection that was made in another way, such as
// from a namespace.
func NewClient(conn net.Conn, id, acked uint64) *Client {
	return &Client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), id: id, sent: acked, acked: acked}
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Acked is how many increments of this client were acknowledged.
func (c *Client) Acked() uint64 { return c.acked }

// Resume goes on after the guest has lost increments that it had acknowledged: it
// holds this many. The next one takes the number after.
func (c *Client) Resume(held uint64) { c.sent, c.acked = held, held }

// Do asks for one thing and waits for the answer, until ctx ends. After an error
// that is not ErrFailed the connection is of no more use.
func (c *Client) Do(ctx context.Context, k Kind) (Answer, error) {
	if c.broken != nil {
		return Answer{}, c.broken
	}
	if k.counts() {
		c.sent = c.acked + 1
	}
	a, err := c.exchange(ctx, k)
	if err == nil && k.counts() {
		c.acked = c.sent
	}
	if err != nil && !errors.Is(err, ErrFailed) {
		c.broken = err
	}
	return a, err
}

func (c *Client) exchange(ctx context.Context, k Kind) (Answer, error) {
	what := fmt.Sprintf("client %x: %s", c.id, k)
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.out = appendRequest(c.out[:0], k, c.id, c.sent)
	if _, err := c.conn.Write(c.out); err != nil {
		return Answer{}, waitError(ctx, what, err)
	}
	var a Answer
	var failed bool
	var err error
	a, failed, c.body, err = readAnswer(c.in, c.body)
	switch {
	case err != nil:
		return Answer{}, waitError(ctx, what, err)
	case a.Kind != k:
		return Answer{}, fmt.Errorf("%s: the answer is to %s", what, a.Kind)
	case failed:
		return Answer{}, fmt.Errorf("%s: %w: %s", what, ErrFailed, a.Body)
	}
	return a, nil
}

func appendRequest(b []byte, k Kind, client, count uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, requestHead)
	b = append(b, byte(k), 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, client)
	return binary.LittleEndian.AppendUint64(b, count)
}

// ask is a request as the guest reads it.
type ask struct {
	kind          Kind
	client, count uint64
}

// parseRequest reads the request that b begins with; size 0: it is not whole yet.
func parseRequest(b []byte) (q ask, size int, err error) {
	const head = 4 + requestHead
	if len(b) < 4 {
		return q, 0, nil
	}
	size = 4 + int(binary.LittleEndian.Uint32(b))
	if size < head || size > 4+maxRequest {
		return q, 0, fmt.Errorf("request of %d bytes: want %d to %d", size-4, requestHead, maxRequest)
	}
	if len(b) < head {
		return q, 0, nil
	}
	q = ask{Kind(b[4]), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
	if q.kind < Browse || q.kind > Count || b[5]|b[6]|b[7] != 0 {
		return q, 0, fmt.Errorf("request of kind %d", b[4])
	}
	if len(b) < size {
		return q, 0, nil
	}
	return q, size, nil
}

// beginAnswer leaves room for the head of an answer before its body.
func beginAnswer(b []byte) []byte { return append(b[:0], make([]byte, 4+answerHead)...) }

// endAnswer fills in the head of an answer whose body follows it in b.
func endAnswer(b []byte, k Kind, failed bool, value uint64, sectors int) []byte {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	b[4], b[5] = byte(k), 0
	if failed {
		b[5] = 1
	}
	binary.LittleEndian.PutUint16(b[6:], uint16(sectors))
	binary.LittleEndian.PutUint64(b[8:], value)
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[4+answerHead:], castagnoli))
	return b
}

// readAnswer reads one answer; its body is in scratch, or in what is returned as
// the scratch for next time.
func readAnswer(r *bufio.Reader, scratch []byte) (a Answer, failed bool, _ []byte, err error) {
	var head [4 + answerHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return a, false, scratch, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size < answerHead || size > maxAnswer || head[5] > 1 {
		return a, false, scratch, fmt.Errorf("answer of %d bytes, status %d", size, head[5])
	}
	if need := int(size) - answerHead; cap(scratch) < need {
		scratch = make([]byte, need)
	}
	a = Answer{
		Kind: Kind(head[4]), Value: binary.LittleEndian.Uint64(head[8:]), Body: scratch[:size-answerHead],
		Wrote: int64(binary.LittleEndian.Uint16(head[6:])) * sectorSize,
	}
	if _, err := io.ReadFull(r, a.Body); err != nil {
		return a, false, scratch, err
	}
	if crc32.Checksum(a.Body, castagnoli) != binary.LittleEndian.Uint32(head[16:]) {
		return a, false, scratch, errors.New("answer whose checksum does not fit")
	}
	return a, head[5] == 1, scratch, nil
}

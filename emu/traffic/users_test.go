package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

// here is the namespace that the test runs in.
func here(_ string, fn func() error) error { return fn() }

// counter is a server that counts what each user asks, and can stand still,
// forget and hang up.
type counter struct {
	addr  netip.AddrPort
	gate  sync.RWMutex // held for writing: it stands still
	mu    sync.Mutex
	done  map[uint32]uint32
	conns []*net.TCPConn
}

func newCounter(t *testing.T) *counter {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	c := &counter{addr: l.Addr().(*net.TCPAddr).AddrPort(), done: map[uint32]uint32{}}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns = append(c.conns, conn.(*net.TCPConn))
			c.mu.Unlock()
			go c.serve(conn)
		}
	}()
	return c
}

func (c *counter) serve(conn net.Conn) {
	defer conn.Close()
	var q [8]byte
	for {
		if _, err := io.ReadFull(conn, q[:]); err != nil {
			return
		}
		c.gate.RLock()
		c.mu.Lock()
		user := binary.BigEndian.Uint32(q[:])
		c.done[user] += binary.BigEndian.Uint32(q[4:])
		binary.BigEndian.PutUint32(q[4:], c.done[user])
		c.mu.Unlock()
		c.gate.RUnlock()
		if _, err := conn.Write(q[:]); err != nil {
			return
		}
	}
}

// counting is a user of it.
type counting struct {
	conn net.Conn
	user uint32
	done uint32
}

func (c *counting) ask(add uint32) (uint32, error) {
	var q [8]byte
	binary.BigEndian.PutUint32(q[:], c.user)
	binary.BigEndian.PutUint32(q[4:], add)
	if _, err := c.conn.Write(q[:]); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c.conn, q[:])
	return binary.BigEndian.Uint32(q[4:]), err
}

func (c *counting) Ask() error {
	_, err := c.ask(1)
	if err == nil {
		c.done++
	}
	return err
}

func (c *counting) Lost() (int, error) {
	n, err := c.ask(0)
	return int(c.done - n), err
}

func startUsers(t *testing.T, c *counter, n int) *Users {
	t.Helper()
	u, err := OpenUsers(t.Context(), here, UsersConfig{
		Server: c.addr, From: []string{"a", "b"}, Users: n, Think: 4 * time.Millisecond, Seed: 7,
		Open: func(conn net.Conn, user int) (Service, error) {
			return &counting{conn: conn, user: uint32(user)}, nil
		},
	})
	require.NoError(t, err)
	u.Start()
	return u
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errors.New("waited "+d.String()))
	t.Cleanup(cancel)
	return ctx
}

func TestUsersSeeAServerStandStill(t *testing.T) {
	c := newCounter(t)
	u := startUsers(t, c, 5)
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()))
	c.gate.Lock()
	stood := event.Now()
	require.ErrorContains(t, u.Await(within(t, 120*time.Millisecond), event.Now()), "has waited", "nobody is answered")
	c.gate.Unlock()
	went := event.Now()
	require.NoError(t, u.Await(within(t, 5*time.Second), went))
	r, err := u.Stop(within(t, 5*time.Second))
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	require.Zero(t, r.Lost)
	longest, end := LongestSilence(r.Answers)
	require.Greater(t, longest, 100*time.Millisecond)
	require.Greater(t, end, stood)
	total := uint32(0)
	for _, n := range c.done {
		total += n
	}
	require.Len(t, r.Answers, int(total), "each answer stands for a transaction")
}

func TestUsersCountWhatWasLost(t *testing.T) {
	c := newCounter(t)
	u := startUsers(t, c, 3)
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()))
	c.gate.Lock()
	for user := range c.done {
		c.done[user]--
	}
	c.gate.Unlock()
	r, err := u.Stop(within(t, 5*time.Second))
	require.NoError(t, err)
	require.Equal(t, 3, r.Lost)
}

func TestUsersNoticeAReset(t *testing.T) {
	c := newCounter(t)
	u := startUsers(t, c, 2)
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()))
	c.mu.Lock()
	_ = c.conns[0].SetLinger(0) // closing sends RST
	_ = c.conns[0].Close()
	c.mu.Unlock()
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()), "who has failed is not waited for")
	r, err := u.Stop(within(t, 5*time.Second))
	require.NoError(t, err)
	require.Len(t, r.Failures, 1)
	require.True(t, r.Failures[0].Reset, r.Failures[0].Err)
	require.NotZero(t, r.Resets, "the kernel has counted it")
	require.Zero(t, r.Lost)
}

func TestUsersThatGetNoAnswerAreNamed(t *testing.T) {
	c := newCounter(t)
	u := startUsers(t, c, 2)
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()))
	c.gate.Lock()
	defer c.gate.Unlock()
	_ = u.Await(within(t, 50*time.Millisecond), event.Now()) // both have asked
	_, err := u.Stop(within(t, 50*time.Millisecond))
	require.ErrorContains(t, err, "has waited")
	require.ErrorContains(t, err, "waited 50ms")
}

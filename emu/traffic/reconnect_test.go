package traffic

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

// lasting is a counting user that goes on with another connection.
type lasting struct {
	counting
	account Account
}

func (l *lasting) Ask() error {
	err := l.counting.Ask()
	if err == nil {
		l.account.Acked++
	}
	return err
}

func (l *lasting) Again(conn net.Conn) error {
	l.conn = conn
	held, err := l.ask(0)
	if err != nil {
		return err
	}
	if held < l.done {
		l.account.Lost += int(l.done - held)
		l.account.OldestLost = event.Now()
	}
	l.done = held
	return nil
}

func (l *lasting) Account() Account { return l.account }

func TestUsersGoOnWhenTheirConnectionsBreak(t *testing.T) {
	c := newCounter(t)
	u, err := OpenUsers(within(t, time.Second), here, UsersConfig{
		Server: c.addr, From: []string{"hq-1"}, Users: 3, Think: time.Millisecond, Reconnect: 10 * time.Millisecond,
		Open: func(conn net.Conn, user int) (Service, error) {
			return &lasting{counting: counting{conn: conn, user: uint32(user)}}, nil
		},
	})
	require.NoError(t, err)
	u.Start()
	require.NoError(t, u.Await(within(t, 5*time.Second), 1))
	c.mu.Lock()
	for user, n := range c.done { // the server fails over, and has lost what it did last
		c.done[user] = n - 1
	}
	for _, conn := range c.conns {
		require.NoError(t, conn.SetLinger(0))
		require.NoError(t, conn.Close())
	}
	c.mu.Unlock()
	require.NoError(t, u.Await(within(t, 5*time.Second), event.Now()))
	r, err := u.Stop(within(t, 5*time.Second))
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	require.Equal(t, 3, r.Reconnects)
	// One each, unless its answer was under way when the connection broke.
	require.LessOrEqual(t, r.Account.Lost, 3)
	require.NotZero(t, r.Account.Lost)
	require.NotZero(t, r.Account.OldestLost)
	require.Equal(t, r.Account.Acked, len(r.Answers))
}

func TestUsersTakeASilentServerForLost(t *testing.T) {
	c := newCounter(t)
	u, err := OpenUsers(within(t, time.Second), here, UsersConfig{
		Server: c.addr, From: []string{"hq-1"}, Users: 1, Think: time.Millisecond, Reconnect: 10 * time.Millisecond, Silent: 100 * time.Millisecond,
		Open: func(conn net.Conn, user int) (Service, error) {
			return &lasting{counting: counting{conn: conn, user: uint32(user)}}, nil
		},
	})
	require.NoError(t, err)
	u.Start()
	require.NoError(t, u.Await(within(t, 5*time.Second), 1))
	c.gate.Lock()
	stood := event.Now()
	time.AfterFunc(300*time.Millisecond, c.gate.Unlock)
	require.NoError(t, u.Await(within(t, 5*time.Second), stood))
	r, err := u.Stop(within(t, 5*time.Second))
	require.NoError(t, err)
	require.NotZero(t, r.Reconnects)
	require.Zero(t, r.Account.Lost, "it stood still and lost nothing")
}

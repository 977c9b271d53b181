package tcp_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/tcp"
)

// TestWhatRemainsIsBuried: the process with the connections is killed, and its
// kernel tries to tell the peers, which it cannot reach. The VM comes back to that
// same kernel, and goes on with them.
func TestWhatRemainsIsBuried(t *testing.T) {
	g := newGround(t, trait{})
	s := g.newServer(0)
	var list []*client
	for range 12 {
		c := &client{conn: in(t, g.client, func() (net.Conn, error) { return net.DialTimeout("tcp4", g.vm.String(), 5*time.Second) })}
		defer c.conn.Close()
		list = append(list, c)
	}
	s.run()
	for _, c := range list {
		c.exchange(t)
	}
	k, err := s.checkpoint()
	require.NoError(t, err)
	g.port(0, false)
	close(s.stop)
	s.done.Wait()
	for n, c := range s.conns {
		if n.Port()%2 == 0 { // and has more to say than that
			_, err := unix.Write(c.fd, []byte("words that come after the checkpoint"))
			require.NoError(t, err)
		}
		require.NoError(t, unix.Close(c.fd))
	}
	require.NoError(t, errors.Join(unix.Close(s.listen), s.diag.Close()))
	var all []*tcp.Connection
	for rest := k.bytes; len(rest) > 0; {
		var c *tcp.Connection
		c, rest, err = tcp.Parse(rest)
		require.NoError(t, err)
		all = append(all, c)
	}
	require.Len(t, all, len(list))
	took := in(t, g.seats[0], func() (time.Duration, error) {
		to, err := tcp.OpenRestorer()
		if err != nil {
			return 0, err
		}
		for _, c := range all {
			if _, err := to.Restore(c, 0); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("restore beside what remains: got %v, want %v", err, unix.EADDRNOTAVAIL)
			}
		}
		began := event.Now()
		err = to.Bury(all)
		return event.Now().Sub(began), errors.Join(err, to.Close())
	})
	s, resend, _ := g.restore(0, k)
	g.port(0, true)
	require.NoError(t, resend())
	s.run()
	for _, c := range list {
		c.exchange(t)
	}
	s.kill()
	t.Logf("%d connections buried in %v", len(all), took)
}

package hypervisor

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConnectionsOfOthersAreCounted while they are open, and when they have ended,
// and those to other ports are not.
func TestConnectionsOfOthersAreCounted(t *testing.T) {
	const size = 1 << 20
	sink := func() (at string) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.CopyN(io.Discard, c, size)
					_, _ = c.Write(make([]byte, size/8))
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}()
			}
		}()
		return l.Addr().String()
	}
	ours, others := sink(), sink()
	s, err := listenDestroyed(ours)
	if err != nil {
		t.Skip(err)
	}
	send := func(to string) *net.TCPConn {
		c, err := net.Dial("tcp4", to)
		require.NoError(t, err)
		_, err = c.Write(make([]byte, size))
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, c, size/8)
		require.NoError(t, err)
		return c.(*net.TCPConn)
	}
	end := func(c *net.TCPConn) {
		require.NoError(t, c.CloseWrite())
		_, err = io.Copy(io.Discard, c)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	first, open := send(ours), send(ours)
	s.look()
	end(first)
	end(send(others))
	out, back := s.count()
	end(open)
	if out == 0 {
		t.Skip("this kernel does not tell of its sockets (tcp_diag)")
	}
	require.Greater(t, out, int64(2*size))
	require.Less(t, out, int64(2*size+size/8)) // headers
	require.Greater(t, back, int64(2*size/8))
	require.Less(t, back, int64(2*size/8+size/8))
}

func FuzzParseSockets(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { parseSockets(b, netip.AddrPort{}) })
}

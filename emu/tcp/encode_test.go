package tcp

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func some() *Connection {
	return &Connection{
		Origin: Origin{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.9:40000"),
			MSS: 1460, SendScale: 7, RecvScale: NoScale, SACK: true},
		Read: 1<<32 - 1, Acked: 5, Unread: []byte("half a requ"), Unacked: []byte("an answer"), NotSent: 3,
		Timestamp: 77, SendWindow: 1 << 20, RecvWindow: 65535, Congestion: 44,
	}
}

func TestAConnectionIsWholeOrNothing(t *testing.T) {
	b := some().Append(nil)
	c, rest, err := Parse(append(bytes.Clone(b), "more"...))
	require.NoError(t, err)
	require.Equal(t, "more", string(rest))
	require.Equal(t, some(), c)
	for i := range b {
		_, _, err := Parse(b[:i])
		require.Error(t, err, "cut off at %d", i)
	}
}

func FuzzConnection(f *testing.F) {
	f.Add(some().Append(nil))
	f.Add((&Connection{Origin: Origin{Local: netip.MustParseAddrPort("0.0.0.0:0"), Remote: netip.MustParseAddrPort("0.0.0.0:0")}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := Parse(b)
		if err != nil {
			return
		}
		again, rest, err := Parse(c.Append(nil))
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, c.Append(nil), again.Append(nil))
	})
}

// What the kernel says and what the program knows must agree.
func TestCountersMustFitTheStream(t *testing.T) {
	o := &Origin{Sent: 1<<32 - 4, Received: 100}
	s := &Stream{}
	s.Wrote([]byte("0123456789"))
	s.Read = 7
	c, err := o.At(&Info{Acked: 6, Received: 9, NotSent: 1}, s, 0)
	require.NoError(t, err)
	require.Equal(t, "6789", string(c.Unacked))
	require.Equal(t, uint32(2), c.Acked, "numbers wrap")
	require.Equal(t, uint32(107), c.Read)
	require.Equal(t, 2, s.Unread(&Info{Received: 9}))
	require.Equal(t, 4, s.Kept())
	for name, i := range map[string]Info{
		"more acknowledged than written":     {Acked: 11, Received: 9},
		"less acknowledged than before":      {Acked: 5, Received: 9},
		"more unsent than unacknowledged":    {Acked: 8, Received: 9, NotSent: 3},
		"less received than the program has": {Acked: 8, Received: 6},
	} {
		_, err := o.At(&i, s, 0)
		require.Error(t, err, name)
	}
}

package bgp

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

// body is a control plane that remembers what it was told.
type body struct {
	sink event.Sink
	told []string
	err  error
}

func (b *body) Configure(_ context.Context, c Config) error {
	b.told = append(b.told, c.Node)
	b.sink(event.New(c.Node, "bgp.established", nil))
	return b.err
}

func (b *body) RIB(context.Context) ([]RouteInfo, error) {
	return []RouteInfo{{RD: "65000:1", Prefix: netip.MustParsePrefix("10.0.0.0/24")}}, nil
}

func (b *body) Reset(_ context.Context, neighbor netip.Addr) error {
	b.told = append(b.told, "reset "+neighbor.String())
	return b.err
}

func (b *body) Stop(context.Context) error { return b.err }

// served is a body behind a channel, and what Serve returned.
func served(t *testing.T, ctx context.Context, b *body) (ask func(request) reply, conn net.Conn, done chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done = make(chan error, 1)
	go func() {
		done <- Serve(ctx, theirs, func(s event.Sink) Body { b.sink = s; return b })
	}()
	require.NoError(t, ours.SetDeadline(time.Now().Add(10*time.Second)))
	in := bufio.NewScanner(ours)
	next := uint64(0)
	return func(r request) reply {
		t.Helper()
		next++
		r.ID = next
		line, err := appendLine(nil, r)
		require.NoError(t, err)
		_, err = ours.Write(line)
		require.NoError(t, err)
		for in.Scan() {
			got, err := decodeReply(in.Bytes())
			require.NoError(t, err)
			if got.Event == nil {
				require.Equal(t, next, got.ID)
				return got
			}
		}
		t.Fatalf("no answer: %v", in.Err())
		return reply{}
	}, ours, done
}

func TestServeIsASpeakersChannel(t *testing.T) {
	b := &body{}
	ask, _, done := served(t, t.Context(), b)
	cfg := Config{Node: "pe1", ASN: 65000, RouterID: netip.MustParseAddr("10.255.0.1")}
	require.Empty(t, ask(request{Op: opConfigure, Config: &cfg}).Error)
	require.Equal(t, []string{"pe1"}, b.told)
	require.Len(t, ask(request{Op: opRIB}).RIB, 1)
	bad := cfg
	bad.ASN = 0
	require.Contains(t, ask(request{Op: opConfigure, Config: &bad}).Error, "asn")
	require.Equal(t, []string{"pe1"}, b.told, "what is not valid was passed on")
	require.Empty(t, ask(request{Op: opReset, Neighbor: cfg.RouterID}).Error)
	require.Equal(t, "reset 10.255.0.1", b.told[1])
	b.err = errors.New("no room")
	require.Equal(t, "no room", ask(request{Op: opConfigure, Config: &cfg}).Error)
	require.Equal(t, "no room", ask(request{Op: opStop}).Error)
	require.NoError(t, <-done)
}

func TestServeEndsWithItsParentAndItsContext(t *testing.T) {
	_, conn, done := served(t, t.Context(), &body{})
	require.NoError(t, conn.Close())
	require.NoError(t, <-done, "the parent is gone: nobody to tell")

	ctx, cancel := context.WithCancelCause(t.Context())
	_, _, done = served(t, ctx, &body{})
	fault := errors.New("zebra died")
	cancel(fault)
	require.ErrorIs(t, <-done, fault)
}

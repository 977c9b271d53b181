package guest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

func TestGuestRunsAsFarAsItsLeash(t *testing.T) {
	folder := host(t)
	l, err := CreateLeash(folder)
	require.NoError(t, err)
	defer l.Close()
	g := gate{}
	g.leash, err = OpenLeash(folder)
	require.NoError(t, err)
	defer g.leash.Close()

	short, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("waited long enough"))
	defer cancel()
	require.EqualError(t, g.enter(short), "waited long enough", "it runs without having been let")
	require.Zero(t, l.Ran())

	l.Extend(event.Now() + event.Mono(time.Hour))
	began := event.Now()
	require.NoError(t, g.enter(t.Context()))
	g.leave()
	require.GreaterOrEqual(t, l.Ran(), began)

	entered := make(chan error, 1)
	l.Extend(event.Now()) // as one that nobody moves on any more
	go func() { entered <- g.enter(within(t)) }()
	select {
	case err := <-entered:
		t.Fatalf("it runs on at the end of its leash (%v)", err)
	case <-time.After(20 * time.Millisecond):
	}
	l.Extend(event.Now() + event.Mono(time.Hour))
	require.NoError(t, <-entered)

	next, err := CreateLeash(folder)
	require.NoError(t, err)
	defer next.Close()
	next.Extend(event.Now() + event.Mono(time.Hour))
	again, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Error(t, g.enter(again), "the leash of another guest lets it run")
}

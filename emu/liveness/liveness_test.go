package liveness

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketOf is a name that no other test has.
func socketOf(t *testing.T) string { return fmt.Sprintf("@vpclab-%s-%d", t.Name(), os.Getpid()) }

// serve runs a Server as its owner would, until the test ends.
func serve(t *testing.T, name string) (*Server, chan<- []State) {
	t.Helper()
	s, err := listen(name)
	if err != nil {
		t.Fatal(err)
	}
	return s, drive(t, s)
}

func drive(t *testing.T, s *Server) chan<- []State {
	tell, done := make(chan []State), make(chan struct{})
	go func() {
		defer close(done)
		defer s.Close()
		for {
			fds := []unix.PollFd{{Fd: int32(s.File()), Events: unix.POLLIN}}
			if n, _ := unix.Poll(fds, 1); n == 1 {
				if err := s.Accept(); err != nil {
					t.Error(err)
				}
			}
			select {
			case states, more := <-tell:
				if !more {
					return
				}
				s.Tell(states...)
			default:
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return tell
}

// follow watches in the background.
func follow(t *testing.T, name string) <-chan State {
	ctx, stop := context.WithCancel(context.Background())
	heard, done := make(chan State, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = watch(ctx, name, func(s State) { heard <- s })
	}()
	t.Cleanup(func() { stop(); <-done })
	return heard
}

func next(t *testing.T, heard <-chan State) State {
	t.Helper()
	select {
	case s := <-heard:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s for a state to be told")
		return State{}
	}
}

var (
	neighbour = State{At: 5, Dev: "p1", Peer: netip.MustParseAddr("10.254.0.3"), Up: true, By: "bfd"}
	farAway   = State{At: 7, Peer: netip.MustParseAddr("10.255.0.2"), Up: true, By: "bfd-multihop"}
)

func TestTellsEverythingAndThenWhatChanges(t *testing.T) {
	name := socketOf(t)
	_, tell := serve(t, name)
	tell <- []State{neighbour, farAway}
	heard := follow(t, name)
	first := map[State]bool{next(t, heard): true, next(t, heard): true}
	if !first[neighbour] || !first[farAway] {
		t.Errorf("heard %v", first)
	}
	down := farAway
	down.Up, down.At = false, 9
	tell <- []State{down}
	if got := next(t, heard); got != down {
		t.Errorf("heard %v, want %v", got, down)
	}
	late := follow(t, name)
	if a, b := next(t, late), next(t, late); a != down && b != down {
		t.Errorf("who comes late hears %v and %v", a, b)
	}
	close(tell)
}

func TestListenerFindsTheSuccessor(t *testing.T) {
	name := socketOf(t)
	heard := follow(t, name) // before anybody is there
	_, tell := serve(t, name)
	tell <- []State{neighbour}
	if got := next(t, heard); got != neighbour {
		t.Errorf("heard %v", got)
	}
	close(tell)
	var successor *Server
	for deadline := time.Now().Add(10 * time.Second); successor == nil; {
		var err error
		if successor, err = listen(name); err != nil && time.Now().After(deadline) {
			t.Fatalf("the name is not free 10 s after its server ended: %v", err)
		}
	}
	tell = drive(t, successor)
	tell <- []State{farAway}
	if got := next(t, heard); got != farAway {
		t.Errorf("heard %v", got)
	}
	close(tell)
}

// TestDeafListener: who does not read is hung up on, and holds nobody up.
func TestDeafListener(t *testing.T) {
	name := socketOf(t)
	s, err := listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := s.Accept(); err != nil || len(s.heard) != 1 {
		t.Fatalf("%d listeners, %v", len(s.heard), err)
	}
	for range 100_000 {
		s.Tell(neighbour)
		if len(s.heard) == 0 {
			return
		}
	}
	t.Error("it is still told")
}

func TestForget(t *testing.T) {
	s := &Server{known: map[subject]State{}, fd: -1}
	s.Tell(neighbour, farAway)
	s.Forget(func(st State) bool { return st.Dev == "p1" })
	if len(s.known) != 1 {
		t.Errorf("%v", s.known)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"at":5,"dev":"p1","peer":"10.254.0.3","up":true,"by":"bfd"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if st, err := parse(line); err == nil && st.Dev == "" && !st.Peer.IsValid() {
			t.Errorf("took %q", line)
		}
	})
}

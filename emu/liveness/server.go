package liveness

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// backlog is how many listeners may connect at once: a router has one speaker.
const backlog = 16

// Server tells what it is told to whoever listens. It never waits and has no
// goroutine: its owner calls Accept when File is readable. A listener that does
// not read is hung up on; it may come back and is told everything anew.
type Server struct {
	fd    int
	known map[subject]State
	heard []int // connections
	line  []byte
}

// subject is what a State is about.
type subject struct {
	dev  string
	peer netip.Addr
}

func (s State) subject() subject { return subject{s.Dev, s.Peer} }

// Listen makes the Server of the network namespace that this thread is in.
func Listen() (*Server, error) { return listen(Socket) }

func listen(name string) (*Server, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("tell who is alive: %w", os.NewSyscallError("socket", err))
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tell who is alive at socket %s: %w", name, err)
	}
	return &Server{fd: fd, known: map[subject]State{}}, nil
}

// File is readable when somebody wants to listen.
func (s *Server) File() int { return s.fd }

// Accept takes those who want to listen, and tells them all that is known.
func (s *Server) Accept() error {
	for {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return nil
		default:
			return fmt.Errorf("accept a listener to who is alive: %w", err)
		}
		s.line = s.line[:0]
		for _, st := range s.known {
			s.add(st)
		}
		if s.say(fd) {
			s.heard = append(s.heard, fd)
		} else {
			unix.Close(fd)
		}
	}
}

// Tell says what has changed to all listeners, by one system call each.
func (s *Server) Tell(changes ...State) {
	s.line = s.line[:0]
	for _, st := range changes {
		s.known[st.subject()] = st
		s.add(st)
	}
	if len(s.line) == 0 {
		return
	}
	s.heard = slices.DeleteFunc(s.heard, func(fd int) bool {
		if s.say(fd) {
			return false
		}
		unix.Close(fd)
		return true
	})
}

// Forget drops what is not to be told any more to those who come.
func (s *Server) Forget(stale func(State) bool) {
	for k, st := range s.known {
		if stale(st) {
			delete(s.known, k)
		}
	}
}

func (s *Server) add(st State) {
	b, err := json.Marshal(st)
	if err != nil {
		panic("liveness: " + err.Error()) // a State has no value that JSON lacks
	}
	s.line = append(append(s.line, b...), '\n')
}

// say writes the lines whole, or reports that the listener is gone or deaf.
func (s *Server) say(fd int) bool {
	if len(s.line) == 0 {
		return true
	}
	for {
		n, err := unix.SendmsgN(fd, s.line, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err == nil && n == len(s.line)
		}
	}
}

// Close hangs up on everybody.
func (s *Server) Close() {
	for _, fd := range append(s.heard, s.fd) {
		unix.Close(fd)
	}
	s.heard = nil
}

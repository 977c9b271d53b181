package kernel

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// Config says what to boot. The zero value is a UML or host kernel with the
// default memory and nothing writable.
type Config struct {
	Substrate Substrate // Auto is settled by Choose
	Lab       string    // names the machine: its hostname and process title
	Dir       string    // run folder for console log, pid file and sockets; made and kept if given, else temporary
	Memory    int64     // bytes; default DefaultMemory
	Writable  []string  // host folders that the inside may write; all else is read-only
	InitArgs  []string  // given to the serve function of Init
	// Serve answers the control channel when Substrate is Host: it runs in
	// this process. In a booted kernel the function given to Init does.
	Serve func(ctx context.Context, ln net.Listener) error
	Log   io.Writer // receives the kernel's console as well; may be nil
}

// DefaultMemory of a booted kernel, in bytes.
const DefaultMemory = 2 << 30

// Machine is a running kernel that carries a lab.
type Machine struct {
	Substrate Substrate
	BootTime  time.Duration // from Start to the answer of the inside
}

// Start boots the kernel and returns when its inside answers.
func Start(ctx context.Context, cfg Config) (*Machine, error) { return nil, errors.New("not written") }

// Dial opens a connection to the serve function.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) { return nil, errors.New("not written") }

// Done is closed when the kernel has ended.
func (m *Machine) Done() <-chan struct{} { return nil }

// Err tells why the kernel ended; nil before Done and after Stop.
func (m *Machine) Err() error { return nil }

// Stop ends the kernel and all that belongs to it, and waits for it.
func (m *Machine) Stop(ctx context.Context) error { return nil }

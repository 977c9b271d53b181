package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/tcp"
)

// carried is a client's connection in a checkpoint: what the kernel has of it,
// and what the program has. Bytes that the program has read, of a request that is
// not whole, are among those that are unread.
type carried struct {
	*tcp.Connection
	owed []byte // an answer that is not written yet; nil: there is none
	told bool   // it acknowledges an increment
}

// resting is a connection that was restored.
type resting struct {
	*tcp.Restored
	carried
}

// mostCarried bounds the connections in a state.
const mostCarried = 1 << 16

// appendTo puts it behind b.
func (c *carried) appendTo(b []byte) []byte {
	b = c.Append(b)
	flag := byte(0)
	if c.told {
		flag = 1
	}
	b = append(b, flag)
	b = binary.AppendUvarint(b, uint64(len(c.owed)))
	return append(b, c.owed...)
}

// carried reads one off the front.
func (r *uvarints) carried() (c carried) {
	if r.err != nil {
		return c
	}
	if c.Connection, r.b, r.err = tcp.Parse(r.b); r.err != nil {
		r.b = nil
		return c
	}
	c.told = r.next() == 1
	if c.owed = r.bytes(4 + maxAnswer); len(c.owed) == 0 {
		c.owed = nil
	}
	return c
}

// orphanRetries is how often a kernel tells a peer that a process with a
// connection has ended. The kernel of a VM that was killed would do that for
// minutes, and when the VM comes back it must not.
const orphanRetries = "/proc/sys/net/ipv4/tcp_orphan_retries"

// carry has connections be part of checkpoints from now on: the first time costs
// some calls a connection. mu is held, and the gate closed.
func (k *clients) carry() error {
	if k.carried {
		return nil
	}
	if err := os.WriteFile(orphanRetries, []byte("1"), 0); err != nil {
		return err
	}
	d, err := tcp.OpenDiag()
	if err != nil {
		return err
	}
	k.diag, k.carried = d, true
	for _, c := range k.open {
		k.learn(c)
	}
	return nil
}

// dump is all connections at this moment. The gate is closed.
func (k *clients) dump() (all []carried, err error) {
	if k.port == 0 {
		return nil, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Whoever is connected is a client of the program: it may have been told so.
	if err := k.raw.Control(func(fd uintptr) { k.accept(int(fd)) }); err != nil {
		return nil, fmt.Errorf("connections of clients: %w", err)
	}
	if err := k.carry(); err != nil {
		return nil, fmt.Errorf("connections of clients: %w", err)
	}
	at := event.Now()
	var wrong []error
	err = k.diag.Each(k.port, func(i *tcp.Info) {
		c := k.open[i.Remote]
		if c == nil || c.origin == nil || i.State != tcp.Established {
			return // it has come since, or is about to end
		}
		one, err := c.carry(i, at)
		if err != nil {
			wrong = append(wrong, err)
			return
		}
		all = append(all, one)
	})
	if err = errors.Join(append(wrong, err)...); err != nil {
		return nil, fmt.Errorf("connections of clients: %w", err)
	}
	return all, nil
}

// carry is the connection at a moment.
func (c *connection) carry(i *tcp.Info, at event.Mono) (one carried, err error) {
	if one.Connection, err = c.origin.At(i, c.stream, at); err != nil {
		return one, err
	}
	one.Unacked = append([]byte(nil), one.Unacked...) // the program goes on before the state is encoded no more
	one.Read -= uint32(len(c.in))
	waits := c.stream.Unread(i)
	if len(c.in)+waits > 0 {
		one.Unread = make([]byte, len(c.in)+waits)
		copy(one.Unread, c.in)
		n, err := tcp.Peek(c.fd, one.Unread[len(c.in):])
		if err != nil {
			return one, fmt.Errorf("read ahead of client %v: %w", c.peer, err)
		}
		if n < waits {
			return one, fmt.Errorf("read ahead of client %v: %d of %d bytes are there", c.peer, n, waits)
		}
	}
	if c.owed {
		one.owed, one.told = append([]byte(nil), c.out...), c.told
	}
	return one, nil
}

// What is left in a standby's kernel of an earlier life of the VM would go by
// itself, in seconds, or minutes where the way was slow; a connection with the
// same two ends has it buried, and waits for that so long.
const (
	restorePatience = 500 * time.Millisecond
	restoreAgain    = 20 * time.Millisecond
)

// restore puts connections into the guest's kernel. What cannot be put there is
// dropped, and counted: it must not keep the others from going on.
func (k *clients) restore(all []carried) (err error) {
	if len(all) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.carry(); err != nil {
		return fmt.Errorf("connections of clients: %w", err)
	}
	to, err := tcp.OpenRestorer()
	if err != nil {
		return fmt.Errorf("connections of clients: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for deadline := time.Now().Add(restorePatience); ; time.Sleep(restoreAgain) {
		if all = k.restoreTo(to, all); len(all) == 0 {
			return nil
		}
		var remains []*tcp.Connection
		for _, c := range all {
			remains = append(remains, c.Connection)
		}
		buried := to.Bury(remains)
		if all = k.restoreTo(to, all); len(all) == 0 {
			return nil
		}
		if !time.Now().Before(deadline) {
			k.dropped += len(all)
			fmt.Fprintf(os.Stderr, "guest %s: %d connections of clients are lost: others with the same ends are there: %v\n", k.m.spec.Name, len(all), buried)
			return nil
		}
	}
}

// restoreTo puts connections into the guest's kernel. later are those whose two
// ends are taken.
func (k *clients) restoreTo(to *tcp.Restorer, all []carried) (later []carried) {
	for _, c := range all {
		r, err := to.Restore(c.Connection, sendBuffer)
		switch {
		case err == nil:
			k.resting = append(k.resting, &resting{r, c})
		case errors.Is(err, unix.EADDRNOTAVAIL):
			later = append(later, c)
		default:
			k.dropped++
		}
	}
	return later
}

// resendPatience bounds the wait for a carrier.
const resendPatience = 5 * time.Second

// resend implements Control's Resend.
func (k *clients) resend(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.resting) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, resendPatience, fmt.Errorf("waited %v", resendPatience))
	defer cancel()
	if err := tcp.AwaitWay(ctx); err != nil {
		return err
	}
	var spoken []*tcp.Restored
	for _, r := range k.resting {
		if err := r.Resend(); err != nil {
			k.dropped++
			_ = unix.Close(r.FD) // the client hears of it
			continue
		}
		c, err := newConnection(r.FD, r.Connection.Remote)
		if err != nil {
			return err
		}
		c.origin, c.stream = r.Restored.Origin, r.Restored.Stream
		c.out, c.owed, c.told = r.owed, r.owed != nil, r.told
		k.add(c)
		spoken = append(spoken, r.Restored)
	}
	k.resting = nil
	return tcp.Nudge(spoken)
}

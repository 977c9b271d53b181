package traffic

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// A user with Reconnect whose connection breaks, or who waits for an answer for
// longer than Silent, opens another and goes on: as people and their browsers do
// when a server has failed over. First it asks what became of what it had been
// told.

// Persistent is a [Service] whose user can go on with another connection.
type Persistent interface {
	Service
	// Again goes on with another connection, after it has found out what the
	// server holds of this user.
	Again(conn net.Conn) error
	// Account is what the user was told and what became of it so far.
	Account() Account
}

// Account is what users were told is done, and what of that a server that came
// back did not know.
type Account struct {
	Acked, Lost int
	LostBytes   int64      // that the lost ones had written
	OldestLost  event.Mono // when the user was told of the oldest of them; 0: none is lost
}

// add joins the account of another user.
func (a *Account) add(o Account) {
	if o.OldestLost > 0 && (a.OldestLost == 0 || o.OldestLost < a.OldestLost) {
		a.OldestLost = o.OldestLost
	}
	a.Acked, a.Lost, a.LostBytes = a.Acked+o.Acked, a.Lost+o.Lost, a.LostBytes+o.LostBytes
}

// dialWithin bounds one attempt to connect, where nothing else is said: the kernel
// repeats a lost first packet after a second only.
const dialWithin = 400 * time.Millisecond

// usualSilent is how long a user waits for an answer that says nothing else.
const usualSilent = 10 * time.Second

// ask does one transaction, again on another connection where the first breaks
// and the user is one who goes on. over: the users are being stopped.
func (u *Users) ask(s *user) (over bool, err error) {
	if u.cfg.Reconnect == 0 {
		return false, s.service.Ask()
	}
	p, ok := s.service.(Persistent)
	if !ok {
		return false, s.service.Ask()
	}
	patience := u.cfg.Silent
	if patience == 0 {
		patience = usualSilent
	}
	for {
		u.bound(s, patience)
		err := s.service.Ask()
		if err == nil {
			return false, nil
		}
		if over, err := u.redial(s, p, patience); over || err != nil {
			return over, err
		}
	}
}

// bound is how long the connection may be silent from now on; one that is being
// hurried stays so.
func (u *Users) bound(s *user, patience time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.hurried {
		_ = s.conn.SetDeadline(time.Now().Add(patience)) // on a closed connection nothing waits
	}
}

// redial opens connections until one works.
func (u *Users) redial(s *user, p Persistent, patience time.Duration) (over bool, err error) {
	within := cmp.Or(u.cfg.DialWithin, dialWithin)
	pace := time.NewTicker(u.cfg.Reconnect)
	defer pace.Stop()
	for {
		u.mu.Lock()
		over = u.hurried
		_ = s.conn.Close() // it is broken
		u.mu.Unlock()
		if over {
			return true, fmt.Errorf("user %d at %s is not connected to %s", s.number, s.machine, u.cfg.Server)
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), within, fmt.Errorf("waited %v", within))
		err := s.dial(ctx, u)
		cancel()
		if err == nil {
			u.bound(s, patience)
			if err = p.Again(s.conn); err == nil {
				u.mu.Lock()
				u.reconnects++
				u.mu.Unlock()
				return false, nil
			}
		}
		<-pace.C // also while users are being stopped: each is asked what the server holds of it
	}
}

// dial replaces the user's connection.
func (s *user) dial(ctx context.Context, u *Users) error {
	c, err := s.open(ctx, u.enter, u.cfg)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s.conn = c
	return nil
}

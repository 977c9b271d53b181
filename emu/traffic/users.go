package traffic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
)

// Service is a user's side of what a server offers, over one connection. It is
// for one goroutine.
type Service interface {
	// Ask does one transaction: a question, and its answer read to the end.
	Ask() error
	// Lost asks the server what it holds, and counts the transactions that it
	// had told this user were done and of which it knows nothing.
	Lost() (int, error)
}

// UsersConfig describes emulated users of one server.
type UsersConfig struct {
	Server netip.AddrPort
	From   []string // machines that they sit at, in turn
	Users  int
	// Think is the mean time between an answer and the next question; it is
	// exponentially distributed. The first question comes at a random moment
	// of the first Think.
	Think time.Duration
	Seed  uint64
	// Reconnect, where it is not 0, has a user whose connection breaks open
	// another, and try so often; and likewise one who waits longer than Silent,
	// 0: 10 s. Its Service must be Persistent.
	Reconnect, Silent time.Duration
	// DialWithin is how long one attempt to do so may take; 0: 400 ms. Where what the
	// server sends is held for some time, so is its word that it is there.
	DialWithin time.Duration
	// Open speaks the server's protocol on a connection.
	Open func(conn net.Conn, user int) (Service, error)
}

const usersDeadline = 10 * time.Second // for the connections

// Users are people who use a server: each has one TCP connection from the
// namespace of the machine that it sits at, and never opens another. What a
// user sees of a server that moves is therefore what its TCP sees.
//
// Its methods are for one goroutine.
type Users struct {
	cfg    UsersConfig
	enter  Enter
	users  []*user
	resets map[string]uint64 // that the machines' kernels had counted when it began
	stop   chan struct{}
	run    sync.WaitGroup
	begun  bool

	mu         sync.Mutex
	answers    []Answer
	failures   []Failure
	reconnects int
	hurried    bool          // nobody may wait any more
	news       chan struct{} // closed and made anew at each answer and failure
}

// user is one of them.
type user struct {
	number  int
	machine string
	conn    *net.TCPConn
	service Service
	asked   event.Mono // of the question that is not answered yet, under Users.mu; 0: none
	latest  event.Mono // when the last answered question was asked, likewise
	failed  bool       // likewise
}

// Answer is one transaction that a user saw to its end.
type Answer struct {
	User            int
	Asked, Answered event.Mono
}

// Took is the response time.
func (a Answer) Took() time.Duration { return a.Answered.Sub(a.Asked) }

// Failure is what ended a user.
type Failure struct {
	User int
	At   event.Mono
	Err  error
	// Reset: its connection was reset (RST), by the server or by somebody on
	// the way.
	Reset bool
}

// UsersResult is what the users saw.
type UsersResult struct {
	Answers  []Answer // in order of Answered
	Failures []Failure
	// Resets that the kernels of the users' machines counted on established
	// connections (Tcp EstabResets).
	Resets int
	// Lost are transactions that users were told are done and that the server
	// knows nothing of. Of users that failed nothing is known.
	Lost int
	// Reconnects are connections that users opened again, and Account what those
	// who go on were told, Lost included; see Persistent.
	Reconnects int
	Account    Account
}

// OpenUsers connects the users; none of them asks before Start. Stop ends them.
func OpenUsers(ctx context.Context, enter Enter, cfg UsersConfig) (*Users, error) {
	if len(cfg.From) == 0 || cfg.Users < 1 {
		return nil, fmt.Errorf("users of %s: there are none, or no machines for them", cfg.Server)
	}
	u := &Users{cfg: cfg, enter: enter, stop: make(chan struct{}), news: make(chan struct{})}
	var err error
	if u.resets, err = u.kernelResets(); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, usersDeadline, fmt.Errorf("waited %v", usersDeadline))
	defer cancel()
	g, wait := errgroup.WithContext(wait)
	for n := range cfg.Users {
		one := &user{number: n, machine: cfg.From[n%len(cfg.From)]}
		u.users = append(u.users, one)
		g.Go(func() error {
			if err := one.connect(wait, enter, cfg); err != nil {
				return fmt.Errorf("user %d at %s of %s: %w", n, one.machine, cfg.Server, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		u.drop()
		return nil, err
	}
	return u, nil
}

func (s *user) connect(ctx context.Context, enter Enter, cfg UsersConfig) (err error) {
	if s.conn, err = s.open(ctx, enter, cfg); err != nil {
		return err
	}
	s.service, err = cfg.Open(s.conn, s.number)
	return err
}

// open opens a connection from the user's machine.
func (s *user) open(ctx context.Context, enter Enter, cfg UsersConfig) (conn *net.TCPConn, err error) {
	err = enter(s.machine, func() error {
		d := net.Dialer{KeepAlive: -1}
		d.SetMultipathTCP(false)
		c, err := d.DialContext(ctx, "tcp4", cfg.Server.String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("connect: %w", err)
}

// Start lets the users ask.
func (u *Users) Start() {
	if u.begun {
		return
	}
	u.begun = true
	for _, s := range u.users {
		u.run.Add(1)
		go u.use(s)
	}
}

// use is a user's life: think, ask, read the answer.
func (u *Users) use(s *user) {
	defer u.run.Done()
	rng := rand.New(rand.NewPCG(u.cfg.Seed, uint64(s.number)))
	think := time.NewTimer(time.Duration(rng.Float64() * float64(u.cfg.Think)))
	defer think.Stop()
	for {
		select {
		case <-u.stop:
			return
		case <-think.C:
		}
		asked := event.Now()
		u.mu.Lock()
		s.asked = asked
		u.mu.Unlock()
		if over, err := u.ask(s); err != nil {
			if !over {
				u.fail(s, err)
			}
			return
		}
		u.answered(s, Answer{User: s.number, Asked: asked, Answered: event.Now()})
		think.Reset(time.Duration(rng.ExpFloat64() * float64(u.cfg.Think)))
	}
}

func (u *Users) answered(s *user, a Answer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.asked, s.latest = 0, a.Asked
	u.answers = append(u.answers, a)
	u.tell()
}

func (u *Users) fail(s *user, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.failed = true
	u.failures = append(u.failures, Failure{
		User: s.number, At: event.Now(), Err: err,
		Reset: errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED),
	})
	u.tell()
}

// tell wakes those who await something; the caller holds mu.
func (u *Users) tell() {
	close(u.news)
	u.news = make(chan struct{})
}

// Await waits until each user has the answer to a question that it asked
// since a moment, or has failed.
func (u *Users) Await(ctx context.Context, since event.Mono) error {
	for {
		u.mu.Lock()
		waiting := slices.IndexFunc(u.users, func(s *user) bool { return !s.failed && s.latest < since })
		news := u.news
		u.mu.Unlock()
		if waiting < 0 {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("users of %s: %s: %w", u.cfg.Server, u.describe(waiting), context.Cause(ctx))
		}
	}
}

// describe says what a user waits for.
func (u *Users) describe(i int) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.users[i]
	if s.asked == 0 {
		return fmt.Sprintf("user %d at %s has not asked yet", s.number, s.machine)
	}
	return fmt.Sprintf("user %d at %s has waited %v for an answer", s.number, s.machine, event.Now().Sub(s.asked).Round(time.Millisecond))
}

// Stop lets each user finish what it is at, asks what the server knows of it,
// and ends the connections. A user that gets no answer before ctx ends is an
// error beside the result.
func (u *Users) Stop(ctx context.Context) (*UsersResult, error) {
	close(u.stop)
	err := u.finish(ctx)
	r := &UsersResult{}
	if err == nil {
		r.Lost, err = u.lost(ctx)
	}
	u.mu.Lock()
	r.Answers, r.Failures, r.Reconnects = u.answers, u.failures, u.reconnects
	u.mu.Unlock()
	for _, s := range u.users {
		if p, ok := s.service.(Persistent); ok {
			r.Account.add(p.Account())
		}
	}
	slices.SortStableFunc(r.Answers, func(a, b Answer) int { return cmp.Compare(a.Answered, b.Answered) })
	now, rerr := u.kernelResets()
	for machine, n := range now {
		r.Resets += int(n - u.resets[machine])
	}
	u.drop()
	return r, errors.Join(err, rerr)
}

// finish waits for the users' goroutines.
func (u *Users) finish(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		u.run.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	var waiting []error
	for i, s := range u.users {
		u.mu.Lock()
		stuck := s.asked != 0 && !s.failed
		u.mu.Unlock()
		if stuck {
			waiting = append(waiting, fmt.Errorf("users of %s: %s: %w", u.cfg.Server, u.describe(i), context.Cause(ctx)))
		}
	}
	u.hurry()
	<-done
	return errors.Join(waiting...)
}

// hurry ends all reading and writing.
func (u *Users) hurry() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hurried = true
	for _, s := range u.users {
		if s.conn != nil {
			_ = s.conn.SetDeadline(time.Unix(1, 0)) // on a closed connection nothing waits
		}
	}
}

// lost asks the server about each user that has not failed.
func (u *Users) lost(ctx context.Context) (lost int, err error) {
	defer context.AfterFunc(ctx, u.hurry)()
	for _, s := range u.users {
		if s.failed {
			continue
		}
		n, err := s.service.Lost()
		if err != nil {
			return lost, fmt.Errorf("user %d at %s: ask %s what it holds: %w", s.number, s.machine, u.cfg.Server, err)
		}
		lost += n
	}
	return lost, nil
}

// drop closes the connections.
func (u *Users) drop() {
	for _, s := range u.users {
		if s.conn != nil {
			_ = s.conn.Close() // what was to be sent has been answered
		}
	}
}

// kernelResets are the resets of established connections that the kernel has
// counted in the namespace of each machine.
func (u *Users) kernelResets() (map[string]uint64, error) {
	counts := map[string]uint64{}
	for _, machine := range u.cfg.From {
		err := u.enter(machine, func() (err error) {
			counts[machine], err = estabResets("/proc/thread-self/net/snmp")
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("users at %s: count resets: %w", machine, err)
		}
	}
	return counts, nil
}

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/config/oc"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// Dialling the reflector: it may start later than we do.
const (
	dialTimeout  = 2 * time.Second
	dialBackoff  = 20 * time.Millisecond // doubled up to
	dialBackoffL = 500 * time.Millisecond
)

// daemon is the GoBGP server of this process and its sessions. Its methods
// are called by the process loop alone; what happens inside GoBGP comes back
// through post.
type daemon struct {
	cfg    Config // node, asn, router id, port and timers: fixed for the process
	srv    *server.BgpServer
	queue  chan<- *net.TCPConn // see attach.go; nil: GoBGP dials
	post   func(any)
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // dialers
	peers  map[netip.Addr]*peer
	first  bool // no policy set yet
}

// peer is one session.
type peer struct {
	addr        netip.Addr
	state       api.PeerState_SessionState
	established bool
	reason      string // of the last end
	fails       int    // openings that did not end established
	stopDial    context.CancelFunc
	handshake   *time.Timer // runs while OPENs are exchanged
}

// sessionEvent and pathEvent are what GoBGP reports.
type (
	sessionEvent struct {
		addr  netip.Addr
		state api.PeerState_SessionState
	}
	pathEvent struct{ paths []*api.Path }
)

// handshakeOver says that a session did not come about within the hold time.
type handshakeOver struct{ p *peer }

// startDaemon starts GoBGP for cfg. No session is opened yet.
func startDaemon(ctx context.Context, cfg Config, post func(any)) (*daemon, error) {
	d := &daemon{cfg: cfg, post: post, peers: map[netip.Addr]*peer{}, first: true}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.srv = server.NewBgpServer(server.LoggerOption(&goLogger{post: post}))
	go d.srv.Serve() // ends with the process: GoBGP offers no way to end it
	err := d.srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: cfg.ASN, RouterId: cfg.RouterID.String(),
		ListenPort: int32(cfg.port()), ListenAddresses: []string{cfg.RouterID.String()},
		Families: []uint32{
			uint32(oc.AfiSafiTypeToIntMap[oc.AFI_SAFI_TYPE_L3VPN_IPV4_UNICAST]),
			uint32(oc.AfiSafiTypeToIntMap[oc.AFI_SAFI_TYPE_L2VPN_VPLS]),
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("start BGP on %s port %d: %w", cfg.RouterID, cfg.port(), err)
	}
	if !cfg.Reflector {
		d.queue = acceptQueue(d.srv)
	}
	req := &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}
	if !cfg.Reflector {
		req.Table = &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			{Type: api.WatchEventRequest_Table_Filter_BEST, Init: true}}}
	}
	if err := d.srv.WatchEvent(d.ctx, req, d.onEvent); err != nil {
		return nil, fmt.Errorf("watch BGP: %w", err)
	}
	return d, nil
}

// onEvent runs in GoBGP's watcher.
func (d *daemon) onEvent(r *api.WatchEventResponse) {
	if t := r.GetTable(); t != nil && len(t.Paths) > 0 {
		d.post(pathEvent{t.Paths})
	}
	if p := r.GetPeer(); p != nil && p.Type == api.WatchEventResponse_PeerEvent_STATE {
		if addr, err := netip.ParseAddr(p.Peer.GetState().GetNeighborAddress()); err == nil {
			d.post(sessionEvent{addr, p.Peer.GetState().GetSessionState()})
		}
	}
}

// setNeighbors converges the sessions; gone are those that were established.
func (d *daemon) setNeighbors(want []netip.Addr) (gone []netip.Addr, err error) {
	var errs []error
	for addr, p := range d.peers {
		if !slices.Contains(want, addr) {
			errs = append(errs, d.removePeer(p))
			if p.established {
				gone = append(gone, addr)
			}
			delete(d.peers, addr)
		}
	}
	for _, addr := range want {
		if d.peers[addr] == nil {
			p := &peer{addr: addr, state: api.PeerState_IDLE}
			d.peers[addr] = p
			errs = append(errs, d.addPeer(p))
		}
	}
	return gone, errors.Join(errs...)
}

func (d *daemon) addPeer(p *peer) error {
	err := d.srv.AddPeer(d.ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.addr.String(), PeerAsn: d.cfg.ASN},
		// Otherwise GoBGP drops the AFI list of a peer without a state.
		State: &api.PeerState{},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: 1, HoldTime: uint64(d.cfg.hold()), KeepaliveInterval: uint64(d.cfg.keepalive()),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{
			LocalAddress: d.cfg.RouterID.String(), RemotePort: uint32(d.cfg.port()),
			// The reflector waits; a PE waits too where it dials by itself.
			PassiveMode: d.cfg.Reflector || d.queue != nil,
		},
		RouteReflector: &api.RouteReflector{RouteReflectorClient: d.cfg.Reflector, RouteReflectorClusterId: d.cfg.RouterID.String()},
		AfiSafis: []*api.AfiSafi{
			{Config: &api.AfiSafiConfig{Family: vpnv4, Enabled: true}},
			{Config: &api.AfiSafiConfig{Family: vpls, Enabled: true}},
		},
	}})
	if err != nil {
		return fmt.Errorf("add neighbor %s: %w", p.addr, err)
	}
	return nil
}

func (d *daemon) removePeer(p *peer) error {
	if p.stopDial != nil {
		p.stopDial()
		p.stopDial = nil
	}
	p.stopHandshake()
	if err := d.srv.DeletePeer(d.ctx, &api.DeletePeerRequest{Address: p.addr.String()}); err != nil {
		return fmt.Errorf("remove neighbor %s: %w", p.addr, err)
	}
	return nil
}

// sessionChange is what a change of state means for the lab.
type sessionChange int

const (
	sessionSame sessionChange = iota
	sessionUp
	sessionDown
)

// onSession follows a session's state: it dials when GoBGP is ready for a
// connection, and it starts a lost session afresh, because GoBGP would leave
// it idle for five seconds.
func (d *daemon) onSession(e sessionEvent) (*peer, sessionChange, error) {
	p := d.peers[e.addr]
	if p == nil {
		return nil, sessionSame, nil // the last word of a removed one
	}
	was := p.state
	p.state = e.state
	switch e.state {
	case api.PeerState_OPENSENT:
		p.stopHandshake()
		p.handshake = time.AfterFunc(time.Duration(d.cfg.hold())*time.Second, func() { d.post(handshakeOver{p}) })
	case api.PeerState_ESTABLISHED:
		p.stopHandshake()
		p.established, p.fails = true, 0
		return p, sessionUp, nil
	case api.PeerState_ACTIVE:
		d.dial(p)
	case api.PeerState_IDLE:
		if was <= api.PeerState_ACTIVE {
			break
		}
		change := sessionSame
		if p.established {
			p.established, change = false, sessionDown
		} else {
			p.fails++
		}
		return p, change, d.restart(p)
	}
	return p, sessionSame, nil
}

// restart gives p a fresh state machine.
func (d *daemon) restart(p *peer) error {
	return errors.Join(d.removePeer(p), d.addPeer(p))
}

// onHandshakeOver frees a session from a caller that never says OPEN. GoBGP
// would wait for four minutes and turn the real neighbor away meanwhile.
func (d *daemon) onHandshakeOver(e handshakeOver) error {
	p := e.p
	if d.peers[p.addr] != p || (p.state != api.PeerState_OPENSENT && p.state != api.PeerState_OPENCONFIRM) {
		return nil
	}
	p.fails++
	p.state = api.PeerState_IDLE
	return d.restart(p)
}

func (p *peer) stopHandshake() {
	if p.handshake != nil {
		p.handshake.Stop()
	}
}

// anyEstablished says that somebody hears what is announced.
func (d *daemon) anyEstablished() bool {
	for _, p := range d.peers {
		if p.established {
			return true
		}
	}
	return false
}

// dial opens the connection of p in the background and hands it to GoBGP.
func (d *daemon) dial(p *peer) {
	if d.queue == nil {
		return
	}
	if p.stopDial != nil {
		p.stopDial()
	}
	ctx, cancel := context.WithCancel(d.ctx)
	p.stopDial = cancel
	wait := time.Duration(0)
	if p.fails > 0 {
		wait = min(dialBackoff<<min(p.fails-1, 10), dialBackoffL)
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.cfg.RouterID, 0)), Timeout: dialTimeout}
	remote := net.JoinHostPort(p.addr.String(), strconv.Itoa(d.cfg.port()))
	d.wg.Go(func() {
		defer cancel()
		for {
			if !pause(ctx, wait) {
				return
			}
			conn, err := dialer.DialContext(ctx, "tcp4", remote)
			if err != nil {
				wait = min(max(2*wait, dialBackoff), dialBackoffL)
				continue
			}
			select {
			case d.queue <- conn.(*net.TCPConn):
			case <-ctx.Done():
				conn.Close()
			}
			return
		}
	})
}

// pause waits before a further attempt; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// announce originates o; withdraw takes it back.
func (d *daemon) announce(o origin) error {
	p, err := o.apiPath(d.cfg.RouterID)
	if err == nil {
		_, err = d.srv.AddPath(d.ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p})
	}
	if err != nil {
		return fmt.Errorf("announce %s: %w", o, err)
	}
	return nil
}

func (d *daemon) withdraw(o origin) error {
	p, err := o.apiPath(d.cfg.RouterID)
	if err == nil {
		err = d.srv.DeletePath(d.ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: p})
	}
	if err != nil {
		return fmt.Errorf("withdraw %s: %w", o, err)
	}
	return nil
}

// reset ends the session with a neighbor, or with all (zero), by a notification
// (Cease, administrative reset: RFC 4486), and so opens it again.
func (d *daemon) reset(addr netip.Addr) error {
	var errs []error
	if addr.IsValid() && d.peers[addr] == nil {
		return fmt.Errorf("reset session with %s: it is no neighbor", addr)
	}
	for _, p := range d.peers {
		if addr.IsValid() && p.addr != addr || !p.established {
			continue
		}
		if err := d.srv.ResetPeer(d.ctx, &api.ResetPeerRequest{Address: p.addr.String()}); err != nil {
			errs = append(errs, fmt.Errorf("reset session with %s: %w", p.addr, err))
		}
	}
	return errors.Join(errs...)
}

// policy puts the reflector's rules in force.
func (d *daemon) policy(rules []RTRule) error {
	err := setPolicy(d.ctx, d.srv, rules, d.first)
	if err == nil {
		d.first = false
	}
	return err
}

// list is the whole table.
func (d *daemon) list(ctx context.Context) ([]RouteInfo, error) {
	var out []RouteInfo
	var errs []error
	for _, family := range []*api.Family{vpnv4, vpls} {
		err := d.srv.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: family}, func(dst *api.Destination) {
			for _, p := range dst.Paths {
				r, err := routeInfo(p)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				out = append(out, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list RIB: %w", err)
		}
	}
	sortRouteInfos(out)
	return out, errors.Join(errs...)
}

// stop closes the sessions with a notification and waits for the dialers.
func (d *daemon) stop() {
	for _, p := range d.peers {
		p.stopHandshake()
	}
	d.srv.Stop()
	d.cancel()
	d.wg.Wait()
}

package bgp

import (
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// refusedRoutes are those that the kernel did not take, or would not give up. What
// it lacked may come without any word about a link (room for messages, memory), so
// they are tried again after a while.
type refusedRoutes struct {
	why      map[routeKey]string // each is reported once, until the reason is another
	retrying bool                // a retryRoutes is under way
	backoff  time.Duration       // before the next one
}

// retryRoutes is posted some time after the kernel refused a route.
type retryRoutes struct{}

// refuseRoute reports the kernel's refusal, and has all routes looked at again.
func (p *process) refuseRoute(now event.Mono, r vrfRoute, err error) {
	f := &p.refused
	if f.why[r.key()] != err.Error() {
		f.why[r.key()] = err.Error()
		p.emitAt(now, "route.failed", map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String(), "error": err.Error()})
	}
	p.tryLater()
}

// tryLater has all routes looked at again after a while.
func (p *process) tryLater() {
	f := &p.refused
	if f.retrying {
		return
	}
	f.retrying = true
	f.backoff = min(max(2*f.backoff, firstRetry), lastRetry)
	time.AfterFunc(f.backoff, func() { p.inbox.put(retryRoutes{}) })
}

// tookRoutes forgets refusals, when the kernel has all routes as they are wanted.
func (p *process) tookRoutes() {
	clear(p.refused.why)
	p.refused.backoff = 0
}

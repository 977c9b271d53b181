package traffic

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestBulkBetweenWhoIsThere: where one machine is not there, no other stream is
// connected, as nobody would close it.
func TestBulkBetweenWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var entered atomic.Int32
		p := &Prober{byName: map[string]*point{"a": {}, "b": {}}, enter: func(string, func() error) error {
			entered.Add(1)
			return errors.New("not for this test")
		}}
		_, err := p.OpenBulk(t.Context(), BulkConfig{Streams: []Stream{{Flow: Flow{From: "a", To: "b"}}, {Flow: Flow{From: "a", To: "nobody"}}}})
		synctest.Wait()
		if err == nil || err.Error() != `prober: no machine "nobody"` || entered.Load() != 0 {
			t.Errorf("%v, and %d machines were entered", err, entered.Load())
		}
	})
}

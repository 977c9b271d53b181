package bgp

// fib is where learned routes are programmed: the kernel, or a stand-in of
// the tests.
type fib interface {
	// apply sets and removes routes in one batch. Each answer belongs to the
	// route of the same index; nil: done.
	apply(set, del []vrfRoute) (setErrs, delErrs []error)
	// leftovers lists the routes in VRF tables that carry our mark.
	leftovers() ([]routeKey, error)
	close()
}

// linkUp is posted when a device has come up (again).
type linkUp struct{ dev string }

func openKernelFIB(post func(any)) (fib, error) { return nil, nil }

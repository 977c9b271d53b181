// Package kernel decides which Linux kernel carries a lab and boots it.
package kernel

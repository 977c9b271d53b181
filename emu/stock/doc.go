// Package stock finds what others made and vpclab runs: QEMU, kernel images of
// distributions, the modules that belong to them. It packs initial file systems
// for such kernels, unpacks their images, and tells the rate of the counter that
// their clocks go by. It starts none of them but to ask for a version.
//
// Things are looked for where a variable of the environment says, then where the
// system has them, then in the cache folder, into which run.sh unpacks what cannot
// be installed. A lab kernel has the same environment and sees the same files, so
// that who looks inside finds what the launcher would find outside; what lies in
// the cache folder cannot be changed there.
package stock

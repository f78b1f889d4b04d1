;; Wants what toolchains without components call the host.
(component (import "env" (instance (export "abort" (func)))))

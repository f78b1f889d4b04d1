;; world: silent
;; beside: odd.wit
;; Exports nothing.

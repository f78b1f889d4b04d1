;; world: stranger
;; beside: odd.wit
;; Exports nothing of the contract.
(func (export "test:odd/greeting#greet"))

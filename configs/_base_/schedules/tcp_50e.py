# TCP's: like CoOp's, with Adam, its eps large for half precision; other values train otherwise.
_base_ = './coop_50e.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=0.002, eps=1e-3, weight_decay=5e-4))
